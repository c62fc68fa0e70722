//! The same cluster with every service as a process of its own: the log server, six services and the
//! gateway, each of which can be killed and started again on its port and its data.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt::Write as _,
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use gaia::{client::Client, processes::Processes};
use identity::{Authority, MasterKey};

use crate::{Cluster, PASSWORD, ca_file};

/// Beside the log server, which comes first.
const SERVICES: [&str; 7] = [
    "svc-registry",
    "svc-scheduler",
    "svc-artifacts",
    "svc-logs",
    "svc-pipelines",
    "svc-access",
    "gateway",
];

/// Longer than any story.
const CERTIFICATE: Duration = Duration::from_hours(1);

/// How one service is started.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    pub service: &'a str,
    /// Lines of TOML for its `[service]`.
    pub lines: &'a str,
    pub environment: &'a [(&'a str, &'a str)],
}

/// How a process is started again.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    program: PathBuf,
    words: Vec<OsString>,
    environment: Vec<(String, String)>,
}

impl Cluster {
    /// Starts every service as a process of its own. The CA and the log lie where the one server has
    /// them. `prepare` gets the folder before anything runs.
    pub async fn start_apart(
        program: &Path,
        settings: &[Setting<'_>],
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        identity::install_crypto();
        let folder = tempfile::Builder::new().prefix("gaia-story-").tempdir()?;
        prepare(folder.path())?;
        let ports = Ports::find()?;
        let processes = Processes::new(program, &folder.path().join("said"))?;
        let authority = Authority::open_or_create(&folder.path().join("server/ca"))?;
        MasterKey::open_or_create(&folder.path().join("master.key"))?;
        let url = format!("https://{}", ports.address("gateway"));
        let ca = fs::read_to_string(ca_file(folder.path())).context("read the CA certificate")?;
        let client = Client::new(&url, &ca, None)?;
        let mut cluster =
            Self { processes, client, url, folder, arguments: vec![], launches: HashMap::new() };
        for name in ["log"].into_iter().chain(SERVICES) {
            let identity = cluster.home(name).join("identity");
            authority.renew_service(&identity, name, &[], CERTIFICATE)?;
            let setting = settings.iter().find(|setting| setting.service == name);
            let launch = cluster.launch(program, name, &ports, setting)?;
            cluster.launches.insert(name.to_owned(), launch);
            cluster.restart(name)?;
        }
        cluster.client = cluster
            .until("the house answers", async || {
                let mut client = cluster.client.clone();
                client.login("admin", PASSWORD).await?;
                Ok(Some(client))
            })
            .await?;
        crate::keep_secret(&cluster.client).await?;
        Ok(cluster)
    }

    /// Starts a service again that was killed.
    pub fn restart(&mut self, name: &str) -> Result<()> {
        let launch = self.launches.get(name).with_context(|| format!("{name} is no service"))?;
        let Launch { program, words, environment } = launch.clone();
        let environment: Vec<_> =
            environment.iter().map(|(key, value)| (&**key, &**value)).collect();
        self.processes.start_program(&program, name, &words, &environment)
    }

    /// Starts a second scheduler beside the first, named `standby`.
    pub async fn standby(&mut self) -> Result<()> {
        let first = self.home("svc-scheduler").join("config.toml");
        let text = fs::read_to_string(first)?;
        let (listen, rest) = text.split_once('\n').context("the configuration has lines")?;
        let (_, port) = listen.trim_end_matches('\'').rsplit_once(':').context("a port")?;
        let row = port.parse::<u16>()? / 10 * 10;
        fs::create_dir_all(self.home("standby"))?;
        let file = self.home("standby").join("config.toml");
        fs::write(&file, format!("listen = '127.0.0.1:{}'\n{rest}", row + STANDBY))?;
        // It is called by this name, too.
        let program = self.home("svc-scheduler").join("svc-scheduler");
        let words = ["--config".into(), file.into()];
        self.processes.start_program(&program, "standby", &words, &[])?;
        self.said("standby", "is ready at").await
    }

    /// Whether a process runs under this name that [`Cluster::restart`] knows.
    pub fn is_service(&self, name: &str) -> bool {
        self.launches.contains_key(name)
    }

    fn launch(
        &self,
        program: &Path,
        name: &str,
        ports: &Ports,
        setting: Option<&Setting<'_>>,
    ) -> Result<Launch> {
        let home = self.home(name);
        if name == "log" {
            let words = [
                OsString::from("log"),
                "serve".into(),
                "--listen".into(),
                ports.address("log").into(),
                "--data".into(),
                self.home("server").join("log").into(),
                "--identity".into(),
                home.join("identity").into(),
                "--registry".into(),
                format!("https://{}", ports.address("svc-registry")).into(),
            ];
            return Ok(Launch {
                program: program.into(),
                words: words.into(),
                environment: vec![],
            });
        }
        // What is called by this name is this service.
        let link = home.join(name);
        symlink(program, &link)?;
        let file = home.join("config.toml");
        fs::write(
            &file,
            self.configuration(name, ports, setting.map_or("", |setting| setting.lines)),
        )?;
        let own = setting.map_or(&[][..], |setting| setting.environment);
        let environment = own.iter().chain(&[("GAIA_ADMIN_PASSWORD", PASSWORD)]);
        Ok(Launch {
            program: link,
            words: vec!["--config".into(), file.into()],
            environment: environment
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
        })
    }

    fn configuration(&self, name: &str, ports: &Ports, own: &str) -> String {
        let home = self.home(name);
        let data = if name == "svc-registry" { self.home("server") } else { home.clone() };
        let mut text = format!(
            "listen = '{}'\ndata = '{}'\nidentity = '{}'\nlog = 'esdb://{}'\nmaster_key = '{}'\n[services]\n",
            ports.address(name),
            data.display(),
            home.join("identity").display(),
            ports.address("log"),
            self.home("master.key").display(),
        );
        for other in SERVICES {
            let address = ports.address(other);
            writeln!(text, "{other} = 'https://{address}'").expect("a String takes everything");
        }
        text + "[service]\n" + own
    }
}

/// In the row of ports, after those of the log and the services.
const STANDBY: u16 = SERVICES.len() as u16 + 1;

/// One port for each, in a row.
struct Ports(u16);

impl Ports {
    /// Outside of the range from which the system takes ports for clients: a service that was killed
    /// must find its port free.
    fn find() -> Result<Self> {
        let first = 20_000 + (std::process::id() % 1_000) as u16 * 10;
        let is_free = |port: u16| {
            let address = ("127.0.0.1", port);
            TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
        };
        let mut rows = (first..30_000).step_by(10).chain((20_000..first).step_by(10));
        let free = rows.find(|row| (*row..=row + STANDBY).all(is_free));
        free.map(Self).context("no ports are free between 20000 and 30000")
    }

    fn address(&self, name: &str) -> String {
        let place = SERVICES.iter().position(|service| *service == name);
        let port = self.0 + place.map_or(0, |place| place as u16 + 1);
        format!("127.0.0.1:{port}")
    }
}
