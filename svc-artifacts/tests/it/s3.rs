//! Blobs in a bucket of a server that speaks S3's protocol.

use objects::testing::{BUCKET, with_bucket};

use crate::{Config, House, blob};

#[test]
fn a_bucket_keeps_blobs() {
    with_bucket("s3::a_bucket_keeps_blobs", story(), |prefix| {
        let stored = std::fs::read_dir(prefix.join("chunks")).unwrap();
        assert!(stored.count() > 0, "they are under the prefix");
    });
}

async fn story() {
    let house = House::new();
    let bucket = Some(BUCKET.to_owned());
    let config = Config { bucket, ..Config::default() };
    let mut life = house.start_with(config.clone()).await;
    let (old, mut new) = (blob(3_000_000), blob(3_000_000));
    life.put(&old).await.unwrap();
    new.splice(1_000_000..1_000_000, [7; 1000]);
    assert!(life.upload(&new).await <= 4);
    life.stop().await;

    let mut life = house.start_with(config).await;
    assert_eq!(life.get(&old, 0, 0).await.unwrap(), old);
    assert_eq!(life.get(&new, 999_000, 50_000).await.unwrap(), new[999_000..1_049_000]);
    assert_eq!(life.stat(&new).await.unwrap().size, 3_001_000);
    let refused = life.client.put_artifact(futures::stream::iter(crate::messages(b"x", b"y")));
    assert_eq!(refused.await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(life.upload(&old).await, 0);
    assert!(std::fs::read_dir(house.folder.path()).unwrap().next().is_none(), "nothing is here");

    // Everything is there, long after nothing needed it: then it goes.
    let months = std::time::Duration::from_hours(24 * 365 * 100).as_millis() as u64;
    house.now.fetch_add(months, std::sync::atomic::Ordering::Relaxed);
    let request = proto::artifacts::v1::CollectGarbageRequest::default();
    let collected = life.client.collect_garbage(request.clone()).await.unwrap().into_inner();
    assert_eq!(collected.artifacts, 2);
    house.now.fetch_add(3_600_000, std::sync::atomic::Ordering::Relaxed);
    let collected = life.client.collect_garbage(request).await.unwrap().into_inner();
    assert!(collected.objects > 40, "{collected:?}");
    assert_eq!((collected.kept_artifacts, collected.kept_bytes), (0, 0));
}
