//! The scenarios of `integration-tests/conformance` in this process, with a clock that only they turn.

use forebay_integration_tests::conformance::{Kind, Scenario, Shard, all, run};

/// Plays a scenario; an error says what was wrong.
pub fn play(kind: Kind, scenario: &Scenario) -> Result<(), String> {
    let mut shard = Shard::new(kind, &scenario.descriptors());
    futures::executor::block_on(run(scenario, &mut shard))
}

fn all_hold(kind: Kind) {
    let files = all();
    let count: usize = files.iter().map(|(_, file)| file.scenarios.len()).sum();
    let mut wrong = Vec::new();
    for (name, file) in &files {
        let failed = file.scenarios.iter().filter_map(|scenario| play(kind, scenario).err());
        wrong.extend(failed.map(|what| format!("{name}: {what}")));
    }
    assert!(wrong.is_empty(), "{kind:?}: {} of {count} scenarios are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 60, "only {count} scenarios");
}

#[test]
fn every_scenario_holds_in_memory() {
    all_hold(Kind::Memory);
}

#[cfg(feature = "rocksdb")]
#[test]
fn every_scenario_holds_on_rocksdb() {
    all_hold(Kind::Rocks);
}

#[test]
fn scenarios_have_names_of_their_own_and_cover_every_operation() {
    use forebay_proto::v1::OpKind;

    let scenarios: Vec<Scenario> = all().into_iter().flat_map(|(_, file)| file.scenarios).collect();
    let mut names: Vec<_> = scenarios.iter().map(|scenario| &scenario.name).collect();
    names.sort();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let steps = scenarios.iter().flat_map(|scenario| &scenario.steps);
    let ops: Vec<&str> =
        steps.flat_map(|step| step.write.iter().chain(&step.read).flatten()).map(|op| op.op.as_str()).collect();
    for kind in (1..=u8::MAX).filter_map(|number| OpKind::try_from(i32::from(number)).ok()) {
        let name = kind.as_str_name().trim_start_matches("OP_KIND_").to_lowercase();
        assert!(ops.contains(&name.as_str()), "no scenario has {name}");
    }
}
