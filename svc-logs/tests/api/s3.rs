//! Sealed logs in a bucket of a server that speaks S3's protocol.

use objects::testing::{BUCKET, with_bucket};
use svc_logs::Config;

use crate::{House, RUN, until};

#[test]
fn a_bucket_keeps_sealed_logs() {
    with_bucket("s3::a_bucket_keeps_sealed_logs", story(), |prefix| {
        let stored = prefix.join(RUN).join("1.log.zst");
        assert!(stored.exists(), "{} is there", stored.display());
    });
}

async fn story() {
    let house = House::new();
    let config = || Config {
        data: house.folder.path().into(),
        bucket: Some(BUCKET.to_owned()),
        ..Config::default()
    };
    // More than is sent at once, though compressed; and one that a folder would keep as it is.
    let mut dice = 1_u64;
    let mut noise = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 56) as u8
    };
    let long: Vec<u8> = (0..20 << 20).map(|_| noise()).collect();
    let mut life = house.start_with(config()).await;
    for (number, piece) in long.chunks(500_000).enumerate() {
        life.append(1, number as u64 * 500_000, piece).await.unwrap();
    }
    life.end(1, long.len() as u64, b"", &long).await.unwrap();
    life.end(2, 0, b"short", b"short").await.unwrap();
    life.append(3, 0, b"not sealed").await.unwrap();
    let folder = house.folder.path().join(RUN);
    until(|| ["1.log", "2.log"].iter().all(|name| !folder.join(name).exists())).await;
    assert!(!folder.join("1.log.zst").exists());
    assert_eq!(life.read(1, 0, false).await.unwrap(), long);
    assert_eq!(life.read(1, 9_000_001, true).await.unwrap(), long[9_000_001..]);
    // It takes nothing more, and knows what it has.
    assert_eq!(life.end(1, 0, &long[..1000], &long).await.unwrap(), long.len() as u64);
    life.append(1, long.len() as u64, b"!").await.unwrap_err();
    life.stop().await;

    // Killed before the log went, which is there twice: the whole one counts.
    std::fs::write(folder.join("1.log"), &long).unwrap();
    let life = house.start_with(config()).await;
    until(|| !folder.join("1.log").exists()).await;
    life.stop().await;

    // The machine is another one: what is sealed is in the bucket.
    std::fs::remove_dir_all(&folder).unwrap();
    let mut life = house.start_with(config()).await;
    assert_eq!(life.read(1, 0, false).await.unwrap(), long);
    assert_eq!(life.read(0, 0, false).await.unwrap(), b"short");
    life.end(2, 0, b"short", b"short").await.unwrap();
    life.stop().await;
}
