//! Blobs in a bucket of a server that speaks S3's protocol.

use std::process::Command;

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::net::TcpListener;

use crate::{Config, House, blob};

const STORY: &str = "s3::a_bucket_keeps_blobs";

/// The variables are the environment's, which a process has when it starts. So this starts the server, and
/// itself once more.
#[test]
fn a_bucket_keeps_blobs() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if std::env::var_os("AWS_ENDPOINT_URL").is_some() {
        return runtime.block_on(story());
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
    service.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = service.build();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service.clone();
            tokio::spawn(async move {
                let server = Builder::new(TokioExecutor::new());
                // A client may leave as it likes.
                server.serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    let mut story = Command::new(std::env::current_exe().unwrap());
    story.args(["--exact", STORY, "--nocapture"]);
    story.env("AWS_ENDPOINT_URL", format!("http://{address}"));
    story.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
    assert!(story.status().unwrap().success());
    let stored = std::fs::read_dir(folder.path().join("bucket/some/prefix/chunks")).unwrap();
    assert!(stored.count() > 0, "they are under the prefix");
}

async fn story() {
    let house = House::new();
    let bucket = Some("s3://bucket/some/prefix".to_owned());
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
