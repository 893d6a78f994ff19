//! Starts what a role consists of, and stops it again.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use forebay_proto::v1;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    checkpoint::{
        local::{create_folder, sync_folder},
        store,
        stores::Stores,
    },
    config::Config,
    coordinator::{marker, office::Office},
    grpc::{self, Served},
    lease::{Lease, wall_ms},
    shard::{Environment, Shards, open::Backends, snapshot::Uploads},
};

/// Where the kernel says which start of the machine this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Coordinator and server in one process.
    Dev,
    /// Hosts shards.
    Server,
    /// Places shards, leases writers, drives checkpoints.
    Coordinator,
}

/// Runs a role until `stop` is cancelled. `started` is told the address once it is served.
pub async fn run(
    role: Role,
    config: Config,
    stop: CancellationToken,
    started: impl FnOnce(&str),
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(&config.server.listen)
        .await
        .with_context(|| format!("cannot listen on {}: is the port in use?", config.server.listen))?;
    let unix = config.server.unix.as_deref().map(listen_on).transpose()?;
    let listening = grpc::address_of(&listener)?;
    let address = config.server.advertise.clone().unwrap_or_else(|| listening.clone());
    let data = data_dir(&config, role)?;
    let stores = Arc::new(open_stores(&config, &data.path).await?);
    let mut served = Served { address: address.clone(), http2: config.server.http2.clone(), ..Served::default() };
    let mut coordinating = None;
    if role != Role::Server {
        let cluster = marker::found(stores.own(), wall_ms()).await?;
        let (name, settings) = (&config.server.name, config.coordinator.clone());
        let office = Office::new(stores.clone(), cluster, name, &address, &data.id, settings);
        coordinating = Some(tokio::spawn(coordinate(office.clone(), stop.clone())));
        tokio::spawn(grpc::election::keep_standing_by(office.clone(), stop.clone()));
        served.coordinator = Some(office);
    }
    let link_stop = stop.child_token();
    let mut link = None;
    if role != Role::Coordinator {
        let coordinators = if role == Role::Dev { vec![listening.clone()] } else { config.server.coordinators.clone() };
        served.coordinators.clone_from(&coordinators);
        let (shards, keep_link) = host_shards(&config, &data, stores, address, coordinators, link_stop.clone()).await?;
        served.shards = Some(shards);
        link = Some(keep_link);
    }
    let serving = tokio::spawn(grpc::serve(listener, unix, served.clone(), stop.clone()));
    let link = link.map(tokio::spawn);
    if let Some(office) = &served.coordinator {
        tokio::select! { () = office.settled() => {}, () = stop.cancelled() => {} }
    }
    info!(?role, address = listening, data = %data.path.display(), "forebay serves");
    if !stop.is_cancelled() {
        started(&listening);
    }
    let result = serving.await?;
    if let Some(coordinating) = coordinating {
        coordinating.await??;
    }
    if let Some(link) = link {
        link.await?;
    }
    if let Some(shards) = &served.shards {
        shards.stop().await;
    }
    info!("forebay stopped");
    result
}

/// Stands for election, and coordinates; the whole process ends if it cannot.
async fn coordinate(office: Arc<Office>, stop: CancellationToken) -> anyhow::Result<()> {
    let done = office.run(stop.clone()).await;
    stop.cancel();
    Ok(done?)
}

/// Listens on a Unix socket; one that a process left behind which is gone is taken over.
fn listen_on(path: &Path) -> anyhow::Result<UnixListener> {
    let used =
        || format!("cannot listen on the Unix socket {}: is it in use, and its folder writable?", path.display());
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!(used());
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path).with_context(used)?,
        Ok(_) => bail!("server.unix {} is there and no socket: name another path", path.display()),
        Err(_) => {}
    }
    UnixListener::bind(path).with_context(used)
}

async fn host_shards(
    config: &Config,
    data: &DataDir,
    stores: Arc<Stores>,
    address: String,
    coordinators: Vec<String>,
    stop: CancellationToken,
) -> anyhow::Result<(Shards, impl Future<Output = ()> + Send + use<>)> {
    // Reading the cluster's marker also proves that this host sees the coordinator's store: two hosts'
    // file:// directories are two folders.
    let cluster = marker::read(stores.own()).await.with_context(|| {
        let url = stores.own().url();
        format!("{url} does not hold the cluster's marker: start the coordinator first, on the same store")
    })?;
    let cluster_id = cluster.id().to_owned();
    let (reports, outgoing) = mpsc::unbounded_channel();
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_else(|error| {
        warn!(%error, "{BOOT_ID} cannot be read: shards of durability wal are lost with this process");
        String::new()
    });
    let boot_id = boot_id.trim().to_owned();
    let shards = Shards::new(Environment {
        server: config.server.name.clone(),
        boot_id: boot_id.clone(),
        data: data.path.clone(),
        stores,
        cluster,
        uploads: Arc::new(uploads(config, data)?),
        backends: Backends::within(&config.rocksdb, config.shares().map_err(|problems| anyhow!(problems.join("; ")))?)?,
        lease: Arc::new(Lease::default()),
        reports,
    });
    shards.discard_deleted().await;
    let register = v1::Register {
        name: config.server.name.clone(),
        address,
        disk_id: data.id.clone(),
        boot_id,
        process_id: Uuid::new_v4().simple().to_string(),
        cluster_id,
        zone: config.server.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        format_version: 1,
    };
    let link = grpc::dial::keep_link(coordinators, register, shards.clone(), outgoing, stop);
    Ok((shards, link))
}

async fn open_stores(config: &Config, data: &Path) -> anyhow::Result<Stores> {
    let dir = match config.checkpoint.dir.as_str() {
        "" => data.join("checkpoints").display().to_string(),
        dir => dir.to_owned(),
    };
    let store = store::open(&dir, &config.checkpoint.store).await?;
    store::prove(store.as_ref(), "").await?;
    let allowed = config.checkpoint.allowed_dirs.iter().cloned().chain([dir]).collect();
    // What a process that died left there is nobody's.
    let scratch = data.join("scratch");
    fs::remove_dir_all(&scratch).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let stores = Stores::new(store, config.checkpoint.store.clone(), allowed, scratch);
    Ok(stores.with_savepoints(&config.checkpoint.savepoint_dir))
}

fn uploads(config: &Config, data: &DataDir) -> anyhow::Result<Uploads> {
    let scratch = data.path.join("packs");
    let unusable = format!("cannot use {}: is it writable?", scratch.display());
    let checkpoint = &config.checkpoint;
    Uploads::new(checkpoint.uploads_parallel, checkpoint.upload_bytes_per_second.0, scratch).context(unusable)
}

/// The data directory, locked for this process.
struct DataDir {
    path: PathBuf,
    id: String,
    _lock: File,
}

fn data_dir(config: &Config, role: Role) -> anyhow::Result<DataDir> {
    let path = match role {
        // A coordinator keeps nothing here but, by default, the checkpoint directory.
        Role::Coordinator => config.server.data_dir.join("coordinator"),
        Role::Dev | Role::Server => config.server.data_dir.clone(),
    };
    let unusable = || format!("cannot use server.data_dir {}: is it writable?", path.display());
    std::path::absolute(&path).and_then(|path| create_folder(&path)).with_context(unusable)?;
    let path = path.canonicalize().with_context(unusable)?;
    let lock = File::create(path.join("lock")).with_context(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("server.data_dir {} is used by another process: give each its own", path.display())
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(unusable),
    }
    let id = disk_id(&path).with_context(unusable)?;
    Ok(DataDir { path, id, _lock: lock })
}

/// The id of a data directory: made once, and the same behind a loss of power.
fn disk_id(data: &Path) -> io::Result<String> {
    let path = data.join("disk");
    let known = fs::read_to_string(&path).unwrap_or_default();
    if let Ok(id) = Uuid::try_parse(known.trim()) {
        return Ok(id.simple().to_string());
    }
    let id = Uuid::new_v4().simple().to_string();
    let mut file = File::create(&path)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    sync_folder(data)?;
    Ok(id)
}
