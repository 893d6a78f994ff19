//! Wrong configurations: told before a port opens, all at once, with an exit code.

use std::{fs, net::TcpListener, path::Path};

use forebay_integration_tests::harness::{Exit, Forebay, Setup};

/// A configuration that cannot be used.
const EXIT_CONFIG: Option<i32> = Some(2);
/// A world in which it cannot be used.
const EXIT_FAILURE: Option<i32> = Some(1);
/// Where nobody may write, not even root.
const UNWRITABLE: &str = "/sys/forebay";

fn told(exit: &Exit, code: Option<i32>, what: &[&str]) {
    assert_eq!(exit.code, code, "{exit:#?}");
    assert!(exit.stdout.is_empty(), "no port was opened: {}", exit.stdout);
    for what in what {
        assert!(exit.stderr.contains(what), "{what:?} is not told: {}", exit.stderr);
    }
}

/// Lines that the user is told.
fn problems(exit: &Exit) -> Vec<&str> {
    exit.stderr.lines().filter(|line| line.starts_with("forebay: ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_told_with_the_known_ones() {
    let exit = Setup::dev().config("[server]\nnmae = \"a\"\n").fails().await;
    told(&exit, EXIT_CONFIG, &["server.nmae", "unknown field", "`name`"]);
    let exit = Setup::dev().set("checkpoint.dri", "/x").fails().await;
    told(&exit, EXIT_CONFIG, &["checkpoint.dri", "unknown field"]);
    let exit = Setup::dev().env("FOREBAY__SERVER__NMAE", "a").fails().await;
    told(&exit, EXIT_CONFIG, &["server.nmae", "unknown field"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_problems_are_told_in_one_run() {
    let config = "[server]\nname = \"a b\"\nnmae = \"a\"\n[coordinator]\nserver_lease = \"soon\"\n[rocksdb]\nblock_cache_bytes = []\n";
    let setup = Setup::dev().config(config).set("telemetry.log", "a=b=c").set("server.coordinators", "ftp://x");
    let exit = setup.listen("nowhere").fails().await;
    let wrong = [
        "server.name is \"a b\"",
        "server.nmae",
        "coordinator.server_lease",
        "rocksdb.block_cache_bytes",
        "telemetry.log",
        "\"ftp://x\"",
        "server.listen is \"nowhere\"",
    ];
    told(&exit, EXIT_CONFIG, &wrong);
    assert_eq!(problems(&exit).len(), wrong.len(), "{}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_that_is_no_setting_is_told() {
    let exit = Setup::dev().argument("--set").argument("server.name").fails().await;
    told(&exit, EXIT_CONFIG, &["--set server.name: KEY=VALUE"]);
    let exit =
        Setup::dev().set("checkpoint.s3.attempts_max", "many").set("rocksdb.background_threads", "-1").fails().await;
    told(&exit, EXIT_CONFIG, &["checkpoint.s3.attempts_max", "many", "rocksdb.background_threads", "-1"]);
    let exit = Setup::dev().argument("--no-such-flag").fails().await;
    told(&exit, EXIT_CONFIG, &["--no-such-flag"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_budget_that_cannot_be_kept_is_told_with_the_least_that_could() {
    let exit = Setup::dev().set("memory.budget", "64MiB").fails().await;
    told(&exit, EXIT_CONFIG, &["memory.budget is 64.0 MiB: at least 144.0 MiB"]);
    let exit = Setup::dev().set("memory.budget", "1GiB").set("rocksdb.block_cache_bytes", "1GiB").fails().await;
    told(&exit, EXIT_CONFIG, &["rocksdb.block_cache_bytes", "memory.budget = 1.0 GiB"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_file_that_is_not_there_or_is_none_is_told() {
    let exit = Setup::dev().argument("--config").argument("/no/such/forebay.toml").fails().await;
    told(&exit, EXIT_CONFIG, &["/no/such/forebay.toml", "no such configuration file"]);
    let exit = Setup::dev().config("[server\n").fails().await;
    told(&exit, EXIT_CONFIG, &["forebay.toml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_dir_that_cannot_be_used_is_told() {
    let setup = Setup::dev();
    let file = setup.home().join("a-file");
    fs::write(&file, "").unwrap();
    let exit = setup.data_dir(&file).fails().await;
    told(&exit, EXIT_FAILURE, &["server.data_dir", "a-file", "is it writable?"]);
    let setup = Setup::dev();
    let below = setup.home().join("a-file");
    fs::write(&below, "").unwrap();
    let exit = setup.data_dir(&below.join("below")).fails().await;
    told(&exit, EXIT_FAILURE, &["server.data_dir", "a-file/below"]);
    let exit = Setup::dev().data_dir(Path::new(UNWRITABLE)).fails().await;
    told(&exit, EXIT_FAILURE, &["server.data_dir", UNWRITABLE, "is it writable?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_dir_of_another_process_is_told() {
    let running = Forebay::dev().await;
    let exit = Setup::dev().data_dir(running.setup().data()).fails().await;
    told(&exit, EXIT_FAILURE, &[running.setup().data().to_str().unwrap(), "used by another process"]);
    running.api().servers().await.expect("the first one goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let exit = Setup::dev().listen(&address).fails().await;
    told(&exit, EXIT_FAILURE, &[&address, "is the port in use?", "in use"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_dir_that_cannot_be_used_is_told() {
    let setup = Setup::dev();
    let file = setup.home().join("a-file");
    fs::write(&file, "").unwrap();
    let exit = setup.checkpoint_dir(file.to_str().unwrap()).fails().await;
    told(&exit, EXIT_FAILURE, &["a-file", "a file is where a folder must be"]);
    let exit = Setup::dev().checkpoint_dir(UNWRITABLE).fails().await;
    told(&exit, EXIT_FAILURE, &[UNWRITABLE, "must be able to read and write the directory"]);
    let exit = Setup::dev().checkpoint_dir("ftp://bucket/prefix").fails().await;
    told(&exit, EXIT_FAILURE, &["ftp://bucket/prefix", "s3://bucket/prefix"]);
    let exit = Setup::dev().checkpoint_dir("relative/path").fails().await;
    told(&exit, EXIT_FAILURE, &["relative/path", "absolute"]);
    assert!(!Path::new("relative").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_store_than_its_coordinators_is_told() {
    let coordinator = Setup::coordinator().start().await;
    let elsewhere = coordinator.setup().home().join("elsewhere");
    let exit = Setup::server("s", &coordinator).checkpoint_dir(elsewhere.to_str().unwrap()).fails().await;
    told(&exit, EXIT_FAILURE, &["elsewhere", "does not hold the cluster's marker", "start the coordinator first"]);
}

#[cfg(feature = "s3")]
mod s3 {
    use forebay_integration_tests::s3::{Fault, Operation, S3Server};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_missing_bucket_is_told() {
        let server = S3Server::start("state").await.unwrap();
        let exit = Setup::dev().s3(&server, "s3://nobucket/prefix").fails().await;
        told(&exit, EXIT_FAILURE, &["nobucket"]);
        assert!(exit.stderr.to_lowercase().contains("bucket"), "{}", exit.stderr);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn wrong_credentials_are_told_and_not_shown() {
        let server = S3Server::start("state").await.unwrap();
        let setup = Setup::dev().s3(&server, "s3://state/prefix").env("AWS_SECRET_ACCESS_KEY", "wrong-and-secret");
        let exit = setup.fails().await;
        told(&exit, EXIT_FAILURE, &["s3://state", "credentials"]);
        assert!(!exit.stderr.contains("wrong-and-secret"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_without_conditional_writes_is_told() {
        for (operation, condition) in [(Operation::PutIfAbsent, "If-None-Match"), (Operation::PutIfMatch, "If-Match")] {
            let server = S3Server::start("state").await.unwrap();
            server.faults().always(operation, Fault::IgnoreConditions);
            let exit = Setup::dev().s3(&server, "s3://state/prefix").fails().await;
            told(&exit, EXIT_FAILURE, &["s3://state/prefix", condition]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_is_not_there_is_told() {
        let server = S3Server::start("state").await.unwrap();
        let setup = Setup::dev().s3(&server, "s3://state/prefix").set("checkpoint.s3.attempts_max", "1");
        drop(server);
        let exit = setup.fails().await;
        told(&exit, EXIT_FAILURE, &["s3://state/prefix"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn wrong_s3_settings_are_told() {
        let setup = Setup::dev().checkpoint_dir("s3://state").set("checkpoint.s3.part_size", "1MiB");
        told(&setup.fails().await, EXIT_FAILURE, &["part_size", "5 MiB"]);
        let setup = Setup::dev().checkpoint_dir("s3://user:password@state");
        let exit = setup.fails().await;
        told(&exit, EXIT_FAILURE, &["s3://bucket/prefix"]);
        assert!(!exit.stderr.contains("password"), "{}", exit.stderr);
    }
}
