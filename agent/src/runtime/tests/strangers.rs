//! Who may talk to a pipeline: only the agent that started it.

use std::{process::Stdio, sync::Arc};

use proto::plugin::{Empty, plugin_client::PluginClient};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::*;
use crate::runtime::{
    certificates::{self, Files},
    connection::connect,
    handshake::{self, Address, Line},
};

async fn start(files: &Files, scratch: &Path) -> (Child, Address) {
    let launch = itself("troubled", scratch);
    let mut child = Command::new(launch.program)
        .args(launch.args)
        .env(PIPELINE, "troubled")
        .env("GAIA_PLUGIN_CERT", &files.cert)
        .env("GAIA_PLUGIN_KEY", &files.key)
        .env("GAIA_PLUGIN_CA_CERT", &files.ca)
        .env("PLUGIN_UNIX_SOCKET_DIR", "/nonexistent")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a pipeline");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    loop {
        let line = lines.next_line().await.expect("output").expect("a handshake");
        if let Line::Handshake { address, .. } = handshake::read(line.as_bytes()) {
            return (child, address);
        }
    }
}

async fn can_list(address: &Address, config: Arc<ClientConfig>) -> bool {
    let Ok(channel) = connect(address, config).await else { return false };
    PluginClient::new(channel).get_jobs(Empty {}).await.is_ok()
}

/// Somebody who knows the pipeline's CA, as anybody on the machine might.
fn stranger(pipeline: &Files, identity: Option<&Files>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&pipeline.ca).expect("a CA")).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = vec![CertificateDer::from_pem_file(&files.cert).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("an identity")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn only_the_agent_that_started_a_pipeline_can_use_it() {
    let (ours, theirs) = (tempfile::tempdir().expect("a"), tempfile::tempdir().expect("b"));
    let (files, agent) = certificates::issue(ours.path()).expect("certificates");
    let (other, _) = certificates::issue(theirs.path()).expect("certificates");
    let (_child, address) = start(&files, ours.path()).await;
    assert!(matches!(address, Address::Tcp(_)), "there is no folder for a socket: {address}");
    assert!(!can_list(&address, stranger(&files, None)).await, "without a certificate");
    assert!(!can_list(&address, stranger(&files, Some(&other))).await, "as another pipeline");
    assert!(can_list(&address, agent).await, "the agent itself, though strangers came before");
}
