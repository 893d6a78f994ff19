//! A file system that is full: writes are refused, reads go on, and so do writes once there is room.

use std::{collections::BTreeMap, ffi::CStr, fs, io, path::PathBuf};

use forebay_integration_tests::harness::{
    Api, Forebay, Job, JobBuilder, Mounts, PATIENCE, Setup, eventually, raw, reason, value,
};
use forebay_proto::v1::{self, ErrorReason};
use rustix::mount::{MountFlags, mount};
use tonic::Code;

const VALUE_BYTES: usize = 64 << 10;
const DISK: &CStr = c"size=64m";
/// What takes room until it is removed: more than the write buffer of a table, for which RocksDB waits.
const FILLER_BYTES: usize = 24 << 20;
/// Those who write to a job.
const CALLERS: usize = 4;
/// Refusals in a row behind which the disk is full for good.
const REFUSED: u32 = 30;

/// Where the process sees a path, from outside of its mounts.
fn outside(forebay: &Forebay, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", forebay.process().id()))
        .join(forebay.setup().data().strip_prefix("/").unwrap().with_file_name(path))
}

/// Several callers write value after value until all are refused. Returns what was acknowledged: the byte in each key.
async fn fill(forebay: &Forebay, job: &Job) -> BTreeMap<String, u8> {
    let callers: Vec<_> =
        (0..CALLERS).map(|caller| tokio::spawn(fill_as(caller, forebay.api(), job.clone()))).collect();
    let mut acknowledged = BTreeMap::new();
    for caller in callers {
        acknowledged.append(&mut caller.await.unwrap());
    }
    acknowledged
}

async fn fill_as(caller: usize, api: Api, job: Job) -> BTreeMap<String, u8> {
    let (mut acknowledged, mut in_a_row) = (BTreeMap::new(), 0);
    for number in 0_u32.. {
        // Small ones find room for longer.
        let bytes = if number.is_multiple_of(3) { 100 } else { VALUE_BYTES };
        let (key, fill) = (format!("{caller}-{number}"), (number % 251) as u8);
        match api.put(job.at("last", &key), raw(vec![fill; bytes])).await {
            Ok(_) => {
                acknowledged.insert(key, fill);
                in_a_row = 0;
            }
            Err(status) => {
                assert_eq!((status.code(), reason(&status)), (Code::ResourceExhausted, ErrorReason::DiskFull));
                in_a_row += 1;
            }
        }
        if in_a_row == REFUSED {
            break;
        }
    }
    acknowledged
}

async fn all_is_there(forebay: &Forebay, job: &Job, acknowledged: &BTreeMap<String, u8>) {
    let api = forebay.api();
    for (key, fill) in acknowledged {
        let found = api.get(job.at("last", key)).await.unwrap_or_else(|status| panic!("{} {key}: {status}", job.name));
        let whole = found.items.first().is_some_and(|item| item.raw.iter().all(|byte| byte == fill));
        assert!(whole, "{} {key} was acknowledged", job.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_serves_reads_and_both_go_on_once_there_is_room() {
    let mut setup = Setup::dev();
    let disk = setup.home().join("disk");
    fs::create_dir(&disk).unwrap();
    let small = || -> io::Result<()> { Ok(mount("small", &disk, "tmpfs", MountFlags::empty(), DISK)?) };
    let Some(mounts) = Mounts::tried("a disk of a few MB", small) else { return };
    setup = setup.data_dir(&disk.join("data")).within(&mounts);
    let mut forebay = setup.start().await;
    let api = forebay.api();
    let mut jobs = Vec::new();
    for (name, durability) in [("logged", v1::Durability::Wal), ("synced", v1::Durability::WalSync)] {
        let spec = JobBuilder::shared(name, 1).with(|spec| spec.set_durability(durability)).build();
        jobs.push(Job::create(&api, spec, &[value("last")]).await);
    }
    let filler = outside(&forebay, "filler");
    fs::write(&filler, vec![7; FILLER_BYTES]).unwrap();
    let (logged, synced) = tokio::join!(fill(&forebay, &jobs[0]), fill(&forebay, &jobs[1]));
    let mut acknowledged = [logged, synced];
    for (job, acknowledged) in jobs.iter().zip(&acknowledged) {
        println!("{}: {} acknowledged", job.name, acknowledged.len());
        assert!(acknowledged.len() > 50, "{}: the disk was full from the beginning", job.name);
        all_is_there(&forebay, job, acknowledged).await;
    }
    assert!(!forebay.has_ended());

    fs::remove_file(&filler).unwrap();
    let room = std::time::Instant::now();
    for (job, acknowledged) in jobs.iter().zip(&mut acknowledged) {
        let written = || async { api.put(job.at("last", "again"), raw(vec![1; VALUE_BYTES])).await.ok() };
        eventually(&format!("{} is written to again", job.name), written).await;
        acknowledged.insert("again".into(), 1);
        println!("{} is written to {:?} after there was room", job.name, room.elapsed());
        all_is_there(&forebay, job, acknowledged).await;
    }
    assert!(!forebay.has_ended() && room.elapsed() < PATIENCE);

    forebay.kill_and_restart().await;
    for (job, acknowledged) in jobs.iter_mut().zip(&acknowledged) {
        let before = job.routes.clone();
        job.refresh(&api).await;
        assert_eq!(job.routes, before);
        all_is_there(&forebay, job, acknowledged).await;
    }
}
