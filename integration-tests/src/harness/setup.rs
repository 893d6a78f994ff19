//! How a process of the binary `forebay` is started.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::process::Command;

use super::{
    Forebay, Namespace,
    mounts::Mounts,
    process::{Exit, Process, binary},
};
use crate::s3::{ACCESS_KEY_ID, REGION, S3Server, SECRET_ACCESS_KEY};

/// What says that it serves.
const LISTENING: &str = "forebay: listening on http://";

/// Role, folders and settings of one process. Its folders are removed with the last clone.
#[derive(Debug, Clone)]
pub struct Setup {
    pub(super) home: Arc<TempDir>,
    pub(super) name: String,
    role: &'static str,
    listen: String,
    host: Option<Arc<Namespace>>,
    data_dir: PathBuf,
    checkpoint_dir: String,
    config: Option<PathBuf>,
    settings: Vec<(String, String)>,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    mounts: Option<Mounts>,
}

impl Setup {
    /// Coordinator and server in one process, with folders of its own.
    pub fn dev() -> Self {
        Self::new("dev", "dev")
    }

    /// A coordinator with folders of its own.
    pub fn coordinator() -> Self {
        Self::new("coordinator", "coordinator")
    }

    /// A server of that name, which links to a coordinator and uses its object store.
    pub fn server(name: &str, coordinator: &Forebay) -> Self {
        let of = coordinator.setup();
        let mut setup = Self {
            home: of.home.clone(),
            name: name.to_owned(),
            role: "server",
            host: None,
            data_dir: of.home.path().join(name),
            ..of.clone()
        };
        setup.settings.retain(|(key, _)| key.starts_with("checkpoint."));
        setup.listen("127.0.0.1:0").set("server.name", name).set("server.coordinators", &coordinator.url())
    }

    /// Another coordinator of that name, with a data directory of its own and the object store of the first.
    pub fn standby(name: &str, coordinator: &Forebay) -> Self {
        let of = coordinator.setup();
        let setup = Self {
            home: of.home.clone(),
            name: name.to_owned(),
            role: "coordinator",
            host: None,
            data_dir: of.home.path().join(name),
            ..of.clone()
        };
        setup.listen("127.0.0.1:0").set("server.name", name)
    }

    fn new(role: &'static str, name: &str) -> Self {
        let home = tempfile::Builder::new().prefix("forebay-").tempdir().expect("a temporary folder can be made");
        Self {
            name: name.to_owned(),
            role,
            listen: "127.0.0.1:0".into(),
            host: None,
            data_dir: home.path().join("data"),
            checkpoint_dir: home.path().join("checkpoints").display().to_string(),
            config: None,
            settings: Vec::new(),
            arguments: Vec::new(),
            env: Vec::new(),
            mounts: None,
            home: Arc::new(home),
        }
    }

    /// Adds a setting, as `--set section.key=value`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sets where it listens; port 0, a free port, by default.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// Starts it on a host of its own.
    #[must_use]
    pub fn on(mut self, host: &Arc<Namespace>) -> Self {
        self.host = Some(host.clone());
        self.listen(&host.address().to_string())
    }

    /// Sets where shards keep their files.
    #[must_use]
    pub fn data_dir(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.data_dir);
        self
    }

    /// Sets where checkpoints go.
    #[must_use]
    pub fn checkpoint_dir(mut self, url: &str) -> Self {
        url.clone_into(&mut self.checkpoint_dir);
        self
    }

    /// Sets the configuration file.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        let path = self.home.path().join("forebay.toml");
        std::fs::write(&path, text).expect("the test's folder is writable");
        self.config = Some(path);
        self
    }

    /// Adds an argument as it is.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Adds a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends checkpoints to an S3 server.
    #[must_use]
    pub fn s3(self, server: &S3Server, url: &str) -> Self {
        self.checkpoint_dir(url)
            .set("checkpoint.s3.endpoint", &server.endpoint())
            .set("checkpoint.s3.region", REGION)
            .set("checkpoint.s3.path_style", "true")
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
    }

    /// Runs it where these mounts are.
    #[must_use]
    pub fn within(mut self, mounts: &Mounts) -> Self {
        self.mounts = Some(mounts.clone());
        self
    }

    /// The folder that holds everything of it.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where shards keep their files.
    pub fn data(&self) -> &Path {
        &self.data_dir
    }

    /// Where checkpoints go.
    pub fn checkpoints(&self) -> &str {
        &self.checkpoint_dir
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start(self) -> Forebay {
        let (process, address) =
            self.run().await.unwrap_or_else(|exit| panic!("{} did not start: {exit:#?}", self.name));
        Forebay::started(self.listen(&address.to_string()), process, address)
    }

    /// Starts it and waits until it has ended by itself.
    ///
    /// # Panics
    /// If it serves.
    pub async fn fails(&self) -> Exit {
        match self.run().await {
            Err(exit) => exit,
            Ok((process, _)) => panic!("it serves:\n{}", process.stderr()),
        }
    }

    pub(super) async fn run(&self) -> Result<(Process, SocketAddr), Exit> {
        let mut process = Process::start(self.command(), self.home.path(), &self.name);
        let address = process.says(LISTENING).await?;
        Ok((process, address.parse().expect("it says an address")))
    }

    fn command(&self) -> Command {
        let binary = binary("forebay");
        let mut command = match (&self.mounts, &self.host) {
            (Some(mounts), _) => {
                let mut command = Command::from(mounts.enter());
                command.arg(binary);
                command
            }
            (None, Some(host)) => host.command(&binary).into(),
            (None, None) => Command::new(binary),
        };
        command.env_clear().envs(std::env::vars().filter(|(name, _)| keep(name)));
        command.arg(self.role).arg("--listen").arg(&self.listen).arg("--data-dir").arg(&self.data_dir);
        command.arg("--checkpoint-dir").arg(&self.checkpoint_dir);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command.args(&self.arguments);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Nothing of the developer's own Forebay or cloud reaches a test.
fn keep(name: &str) -> bool {
    !["FOREBAY", "AWS_", "OTEL_", "RUST_LOG"].iter().any(|start| name.starts_with(start))
}
