//! `forebayctl bench`: it measures, and leaves nothing behind unless it was asked to.

use std::process::Stdio;

use forebay_integration_tests::harness::{binary, eventually, within};
use tokio::process::Command;

use super::ctl::Ctl;

const SMALL: [&str; 6] = ["--keys", "100", "--ops", "1000", "--batch", "10"];

#[tokio::test]
async fn a_bench_tells_what_it_measured_and_deletes_its_job() {
    let ctl = Ctl::start().await;
    for (work, parts) in
        [("get", &[("get", 1000)][..]), ("put", &[("put", 1000)]), ("mixed", &[("put", 500), ("get", 500)])]
    {
        let backend: &[_] = if work == "mixed" { &["--backend", "memory"] } else { &["--shards", "1"] };
        let said = ctl.json(&[&["bench", work], &SMALL[..], backend].concat()).await;
        assert_eq!((said["ops"].as_u64(), said["keys"].as_u64()), (Some(1000), Some(100)), "{said}");
        let results = said["results"].as_array().unwrap();
        assert_eq!(results.len(), parts.len(), "{said}");
        for (result, (op, ops)) in results.iter().zip(parts) {
            assert_eq!((result["op"].as_str(), result["ops"].as_u64()), (Some(*op), Some(*ops)), "{said}");
            let latency = |name: &str| result[name].as_f64().unwrap();
            assert!(latency("p50_us") > 0.0 && latency("p50_us") <= latency("p99_9_us"), "{said}");
            assert!(
                latency("p99_9_us") <= latency("max_us") && result["ops_per_second"].as_f64() > Some(0.0),
                "{said}"
            );
        }
    }
    assert_eq!(ctl.json(&["job", "list"]).await["jobs"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_bench_of_a_job_that_is_there_leaves_its_keys_and_nothing_else() {
    let ctl = Ctl::with_shop().await;
    ctl.text(&["state", "register", "shop", "carts", "owner", "--kind", "value"]).await;
    ctl.text(&["state", "register", "shop", "carts", "items", "--kind", "list"]).await;
    ctl.text(&["state", "register", "shop", "stats", "delay", "--kind", "value"]).await;
    ctl.text(&["state", "put", "shop", "carts", "owner", "cart-1", "Ada"]).await;
    let on = |operator, state| ["--job", "shop", "--operator", operator, "--state", state];
    let said = ctl.run(&[&["bench", "put"], &SMALL[..], &on("carts", "owner")].concat()).await;
    assert_eq!(said.code, 0, "{said:#?}");
    assert!(said.stderr.contains("100 keys stay in state \"owner\" of job \"shop\""), "{said:#?}");
    assert!(ctl.text(&["state", "get", "shop", "carts", "owner", "cart-1"]).await.contains("Ada"));
    ctl.text(&["state", "get", "shop", "carts", "owner", "bench-0000000099"]).await;
    for (operator, state, reason) in
        [("carts", "items", "WRONG_KIND"), ("stats", "delay", "NOT_LEASED"), ("carts", "nope", "STATE_UNKNOWN")]
    {
        ctl.refuses(&[&["bench", "put"], &SMALL[..], &on(operator, state)].concat(), 1, reason).await;
    }
    assert_eq!(ctl.json(&["job", "list"]).await["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_interrupted_bench_deletes_its_job() {
    let ctl = Ctl::start().await;
    let mut bench = Command::new(binary("forebayctl"))
        .args(["bench", "--duration", "10m"])
        .env("FOREBAY_SERVER", ctl.url())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let jobs = async || ctl.json(&["job", "list"]).await["jobs"].as_array().unwrap().len();
    eventually("the bench has made its job", || async { (jobs().await == 1).then_some(()) }).await;
    let id = rustix::process::Pid::from_raw(i32::try_from(bench.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let ended = within("the bench ends", bench.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(1));
    assert_eq!(jobs().await, 0);
}
