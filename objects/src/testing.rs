//! A bucket for the tests of those who keep objects in one: a server that speaks S3's protocol over a folder.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{path::Path, process::Command};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{net::TcpListener, runtime::Runtime};

/// For [`crate::bucket`], in a story.
pub const BUCKET: &str = "s3://bucket/some/prefix";

/// Plays the story of this test with [`BUCKET`], and looks at what is under its prefix then.
///
/// The variables of a bucket are the environment's, which a process has when it starts. So this starts the
/// server, and the test once more in a process of its own.
pub fn with_bucket(test: &str, story: impl Future<Output = ()>, look: impl FnOnce(&Path)) {
    let runtime = Runtime::new().unwrap();
    if std::env::var_os("AWS_ENDPOINT_URL").is_some() {
        return runtime.block_on(story);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let address = serve(&runtime, folder.path());
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", test, "--nocapture"]);
    again.env("AWS_ENDPOINT_URL", format!("http://{address}"));
    again.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
    assert!(again.status().unwrap().success());
    look(&folder.path().join("bucket/some/prefix"));
}

fn serve(runtime: &Runtime, folder: &Path) -> std::net::SocketAddr {
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
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
    address
}
