//! What the process is told: file → environment → flags. Each module owns its section; they are only
//! put together here. All problems are reported in one run, before any port opens.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use config::{Environment, File};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{checkpoint, coordinator, grpc, storage, telemetry};

/// The whole configuration. An empty file is valid; a misspelt key is an error.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[server]`: this process.
    pub server: Server,
    /// `[coordinator]`: leases and patience.
    pub coordinator: coordinator::Config,
    /// `[checkpoint]`: where checkpoints go.
    pub checkpoint: Checkpoint,
    /// `[memory]`: the budget of all that grows.
    pub memory: storage::budget::MemoryConfig,
    /// `[rocksdb]`: caches and buffers shared by all shards.
    pub rocksdb: storage::RocksConfig,
    /// `[telemetry]`: logs and traces.
    pub telemetry: telemetry::Config,
}

/// `[server]`: this process.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Name of the server; stays the same over restarts. By default the host's name.
    pub name: String,
    /// Address that is listened on.
    pub listen: String,
    /// Unix socket that is listened on as well, for workers beside this process.
    pub unix: Option<PathBuf>,
    /// Address that clients and the coordinator reach this process at; by default `listen`. `unix:///path` if all its
    /// workers are beside it.
    pub advertise: Option<String>,
    /// Where shards keep their files.
    pub data_dir: PathBuf,
    /// Coordinators that a server links to, such as `http://coordinator:7400`.
    pub coordinators: Vec<String>,
    /// Zone that the server is in.
    pub zone: String,
    /// Flow control of connections.
    pub http2: grpc::Http2,
}

/// `[checkpoint]`: where checkpoints go, and how fast.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// `s3://bucket/prefix`, `file:///path` or a path; empty means a folder in `server.data_dir`.
    pub dir: String,
    /// Where savepoints go that name no directory of their own; empty means they have to.
    pub savepoint_dir: String,
    /// Directories besides these two that savepoints, copies and restores may name, with all that is below them.
    pub allowed_dirs: Vec<String>,
    /// Bytes that this server uploads in a second, on average, over all its shards; 0 means as many as it can.
    pub upload_bytes_per_second: ByteSize,
    /// Objects that this server uploads at a time, over all its shards.
    pub uploads_parallel: usize,
    /// The stores' own settings.
    #[serde(flatten)]
    pub store: checkpoint::store::StoreConfig,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            dir: String::new(),
            savepoint_dir: String::new(),
            allowed_dirs: Vec::new(),
            upload_bytes_per_second: ByteSize(0),
            uploads_parallel: 4,
            store: checkpoint::store::StoreConfig::default(),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            listen: "127.0.0.1:7400".to_owned(),
            unix: None,
            advertise: None,
            data_dir: PathBuf::from("forebay-data"),
            coordinators: vec!["http://127.0.0.1:7400".to_owned()],
            zone: String::new(),
            http2: grpc::Http2::default(),
        }
    }
}

impl Config {
    /// Divides the memory budget.
    pub fn shares(&self) -> Result<storage::budget::Shares, Vec<String>> {
        let Checkpoint { dir, savepoint_dir, store, .. } = &self.checkpoint;
        let uploads = store.parts_bytes(dir).max(store.parts_bytes(savepoint_dir));
        self.memory.shares(&self.rocksdb, uploads)
    }
}

/// Reads the configuration: `file`, then `FOREBAY__SECTION__KEY`, then `overrides` (dotted key, value).
///
/// Every key is tried on its own, so that one wrong key does not hide another.
pub fn read(file: Option<&Path>, overrides: &[(String, String)]) -> Result<Config, Vec<String>> {
    let mut problems = Vec::new();
    let mut builder = config::Config::builder();
    match file {
        Some(file) if !file.is_file() => problems.push(format!("{}: no such configuration file", file.display())),
        Some(file) => builder = builder.add_source(File::from(file)),
        None => {}
    }
    builder = builder.add_source(Environment::with_prefix("FOREBAY").prefix_separator("__").separator("__"));
    for (key, value) in overrides {
        match builder.clone().set_override(key, value.as_str()) {
            Ok(with) => builder = with,
            Err(error) => problems.push(format!("{key}={value}: {error}")),
        }
    }
    let given = builder.build().and_then(config::Config::try_deserialize::<Value>);
    let given = given.unwrap_or_else(|error| {
        problems.push(format!("{}: {error}", file.map_or("configuration".into(), |file| file.display().to_string())));
        Value::default()
    });
    let defaults = serde_json::to_value(Config::default()).expect("the defaults are plain data");
    let mut sound = Value::Object(serde_json::Map::new());
    for (path, value) in leaves(&given) {
        let value = as_default(value, path.iter().try_fold(&defaults, |at, key| at.get(key)));
        let alone = |value: &Value| path.iter().rev().fold(value.clone(), |at, key| json!({ key: at }));
        let fits = |value: &Value| serde_json::from_value::<Config>(alone(value)).map(drop);
        // What has no default may be a number, too.
        let number = value.as_str().and_then(|text| text.parse::<Value>().ok()).filter(|number| fits(number).is_ok());
        match (fits(&value), number) {
            (Ok(()), _) => set(&mut sound, &path, value),
            (Err(_), Some(number)) => set(&mut sound, &path, number),
            (Err(error), None) => problems.push(format!("{}: {error}", path.join("."))),
        }
    }
    let read: Config = serde_json::from_value(sound).map_err(|error| vec![error.to_string()])?;
    problems.extend(faults(&read));
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}

/// The keys that were given, with their paths.
fn leaves(given: &Value) -> Vec<(Vec<String>, Value)> {
    match given {
        Value::Object(section) if !section.is_empty() => section
            .iter()
            .flat_map(|(key, value)| {
                leaves(value).into_iter().map(move |(path, leaf)| ([vec![key.clone()], path].concat(), leaf))
            })
            .collect(),
        Value::Null => Vec::new(),
        leaf => vec![(Vec::new(), leaf.clone())],
    }
}

/// Flags and the environment hold text: reads it as what the key's default is.
fn as_default(value: Value, default: Option<&Value>) -> Value {
    match (&value, default) {
        (Value::String(text), Some(Value::Bool(_) | Value::Number(_))) => text.parse().unwrap_or(value),
        (Value::String(text), Some(Value::Array(_))) => text.split(',').map(str::trim).collect(),
        (Value::Bool(_) | Value::Number(_), Some(Value::String(_))) => Value::String(value.to_string()),
        _ => value,
    }
}

fn set(config: &mut Value, path: &[String], value: Value) {
    match path {
        [] => *config = value,
        [key, rest @ ..] => set(&mut config[key], rest, value),
    }
}

/// Everything that is wrong with a configuration that could be read.
fn faults(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let name = &config.server.name;
    if name.is_empty() || name.len() > 128 || name.contains(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c))
    {
        problems.push(format!("server.name is {name:?}: 1 to 128 of letters, digits, '.', '_' and '-'"));
    }
    if config.server.listen.parse::<std::net::SocketAddr>().is_err() {
        problems.push(format!("server.listen is {:?}: address:port, such as 0.0.0.0:7400", config.server.listen));
    }
    let addresses = config.server.coordinators.iter().chain(&config.server.advertise);
    for address in addresses {
        if !address.starts_with("http://") && !address.starts_with("unix:///") {
            problems.push(format!("address {address:?}: http://host:port or unix:///path is needed"));
        }
    }
    if config.server.coordinators.is_empty() {
        problems.push("server.coordinators is empty: name at least one".to_owned());
    }
    problems.extend(config.coordinator.check());
    if config.checkpoint.uploads_parallel == 0 {
        problems.push("checkpoint.uploads_parallel is 0: at least 1".to_owned());
    }
    problems.extend(config.server.http2.check());
    problems.extend(config.rocksdb.check());
    problems.extend(config.shares().err().into_iter().flatten());
    problems.extend(telemetry::check(&config.telemetry).err());
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Config, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forebay.toml");
        std::fs::write(&path, text).unwrap();
        read(Some(&path), &[])
    }

    #[test]
    fn an_empty_file_is_valid() {
        assert_eq!(with("").unwrap(), Config::default());
    }

    #[test]
    fn durations_are_read_as_people_write_them_and_flags_win() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forebay.toml");
        std::fs::write(&path, "[coordinator]\nserver_lease = \"3s\"\n[server]\nname = \"a\"\n").unwrap();
        let config = read(Some(&path), &[("server.name".into(), "b".into())]).unwrap();
        assert_eq!((config.coordinator.server_lease.as_secs(), config.server.name.as_str()), (3, "b"));
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_it() {
        for text in ["[server]\nnmae = \"a\"\n", "[sever]\n", "[checkpoint]\ndri = \"/x\"\n"] {
            let problems = with(text).unwrap_err();
            assert!(problems[0].contains("unknown field"), "{problems:?}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = "[server]\nname = \"a b\"\nlisten = \"nowhere\"\n[telemetry]\nlog = \"a=b=c\"\n";
        assert_eq!(with(text).unwrap_err().len(), 3);
    }

    #[test]
    fn what_http2_does_not_allow_is_told_before_a_port_opens() {
        let sizes = with("[server.http2]\nstream_window = \"1KiB\"\nconnection_window = \"2GiB\"\nframe = \"16MiB\"\n");
        let problems = sizes.unwrap_err();
        assert!(problems.len() == 3 && problems[2].contains("server.http2.frame is 16.0 MiB"), "{problems:?}");
        assert!(with("[server.http2]\nstream_window = \"64KiB\"\nframe = \"1MiB\"\n").is_ok());
    }

    #[test]
    fn one_wrong_key_does_not_hide_another() {
        let text = "[server]\nnmae = \"a\"\nname = \"a b\"\n[rocksdb]\nbackground_threads = \"many\"\n[sever]\n";
        let problems = with(text).unwrap_err();
        for what in ["server.nmae: ", "server.name is \"a b\"", "rocksdb.background_threads: ", "sever: "] {
            assert!(problems.iter().any(|problem| problem.starts_with(what)), "{problems:#?}");
        }
        assert_eq!(problems.len(), 4);
    }

    #[test]
    fn flags_are_read_as_what_the_key_holds() {
        let flags = [
            ("server.name", "007"),
            ("server.coordinators", "http://a:1, http://b:2"),
            ("checkpoint.s3.path_style", "true"),
            ("checkpoint.s3.attempts_max", "7"),
            ("checkpoint.s3.part_size", "8MiB"),
            ("coordinator.server_lease", "3s"),
            ("checkpoint.upload_bytes_per_second", "100MiB"),
            ("checkpoint.uploads_parallel", "2"),
            ("server.advertise", "http://1"),
            ("checkpoint.savepoint_dir", "2013"),
            ("rocksdb.predefined", "low_memory"),
            ("rocksdb.level0_files", "8"),
            ("rocksdb.block_cache_bytes", "64MiB"),
            ("rocksdb.write_buffer_filter", "0.1"),
            ("rocksdb.partitioned_index", "false"),
        ];
        let config = read(None, &flags.map(|(key, value)| (key.to_owned(), value.to_owned()))).unwrap();
        assert_eq!(config.server.name, "007");
        assert_eq!(config.server.coordinators, ["http://a:1", "http://b:2"]);
        assert!(config.checkpoint.store.s3.path_style && config.checkpoint.store.s3.attempts_max == 7);
        assert_eq!(config.coordinator.server_lease.as_secs(), 3);
        assert_eq!(config.checkpoint.upload_bytes_per_second, ByteSize::mib(100));
        assert_eq!((config.checkpoint.uploads_parallel, &config.checkpoint.savepoint_dir[..]), (2, "2013"));
        let rocksdb = storage::RocksConfig {
            predefined: storage::Predefined::LowMemory,
            level0_files: Some(8),
            block_cache_bytes: Some(ByteSize::mib(64)),
            write_buffer_filter: Some(0.1),
            partitioned_index: Some(false),
            ..storage::RocksConfig::default()
        };
        assert_eq!(config.rocksdb, rocksdb);
        let wrong = ("checkpoint.s3.attempts_max".to_owned(), "many".to_owned());
        assert!(read(None, &[wrong]).unwrap_err()[0].starts_with("checkpoint.s3.attempts_max: "));
    }

    #[test]
    fn a_missing_file_is_told() {
        assert!(read(Some(Path::new("/no/such/file.toml")), &[]).unwrap_err()[0].contains("no such configuration"));
    }
}
