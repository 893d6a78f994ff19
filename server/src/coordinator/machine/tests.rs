mod collect;
mod external;
mod moving;
mod settings;
mod stopping;
mod uploads;
mod world;

use super::*;

const NOW: Now = Now { mono_ms: 0, wall_ms: 0 };

/// A job of one operator with two shards, whose writer was `first` when the coordinator before this one died,
/// and whose checkpoint 7 holds its position.
fn head() -> v1::JobHead {
    let operators = vec![v1::Operator { name: "op".into(), access: v1::Access::Leased.into(), ..Default::default() }];
    let checkpoints = Some(v1::CheckpointSettings { interval_ms: Some(0), retained: 3, ..Default::default() });
    let spec = v1::JobSpec { name: "job".into(), operators, lease_ms: 15_000, checkpoints, ..Default::default() };
    let writer = v1::WriterGrant { worker: "first".into(), join_id: "j1".into(), epoch: 1, token: 0 };
    let shard = |start| v1::ShardEntry {
        operator: "op".into(),
        start,
        end: start + 64,
        server: "s".into(),
        epoch: 1,
        incarnation: 1,
        established: true,
        writer_epoch: 1,
        writer: Some(writer.clone()),
        ..Default::default()
    };
    v1::JobHead {
        version: 5,
        coordinator_epoch: 2,
        generation: 1,
        spec: Some(spec),
        shards: vec![shard(0), shard(64)],
        next_checkpoint_id: 1000,
        completed: vec![v1::CompletedCheckpoint { id: 7, ..Default::default() }],
        ..Default::default()
    }
}

/// Worker state of checkpoint 7.
fn state() -> Vec<v1::WorkerState> {
    let elements = vec![bytes::Bytes::from_static(b"position")];
    let list = v1::WorkerList { name: "source".into(), elements, ..Default::default() };
    vec![v1::WorkerState { worker: "first".into(), operator: "op".into(), index: 0, lists: vec![list] }]
}

/// Does what the machine says, as a world without faults would, and returns what workers were told.
fn play(machine: &mut Machine, event: Event) -> Vec<(Connection, ToWorker)> {
    let mut told = Vec::new();
    let mut actions = VecDeque::from(machine.step(event, NOW));
    while let Some(action) = actions.pop_front() {
        let event = match action {
            Action::WriteHead(_) => Event::HeadWritten,
            Action::ReadWorkerState(entry) => Event::WorkerState { checkpoint: entry.id, state: Ok(state()) },
            Action::ToServer(server, ToServer::Job(wanted)) => {
                let serving = |entry: &v1::ShardEntry| v1::AppliedShard {
                    operator: entry.operator.clone(),
                    start: entry.start,
                    end: entry.end,
                    epoch: entry.epoch,
                    incarnation: entry.incarnation,
                    status: v1::ShardStatus::Serving.into(),
                    ..Default::default()
                };
                let shards = wanted.shards.iter().map(serving).collect();
                let applied = v1::JobApplied { version: wanted.version, shards, ..Default::default() };
                Event::Applied { server, applied }
            }
            Action::ToWorker(connection, message) => {
                told.push((connection, message));
                continue;
            }
            _ => continue,
        };
        actions.extend(machine.step(event, NOW));
    }
    told
}

fn join(worker: &str, join_id: &str) -> v1::JoinHello {
    v1::JoinHello { operator: "op".into(), worker: worker.into(), join_id: join_id.into(), ..Default::default() }
}

#[test]
fn a_worker_that_takes_over_gets_the_whole_worker_state_though_the_former_may_still_come_back() {
    let mut machine = Machine::new(head(), 2, "nonce".into(), NOW);
    play(&mut machine, Event::ServerUp { server: "s".into(), address: "a".into() });
    let told = play(&mut machine, Event::Joined { connection: Connection(1), hello: join("second", "j2") });
    let assignment = told.iter().find_map(|(_, message)| match message {
        ToWorker::Assignment(assignment) => Some(assignment),
        _ => None,
    });
    let assignment = assignment.expect("the second worker is told what it holds");
    assert_eq!((assignment.generation, assignment.restored_checkpoint, assignment.shards.len()), (2, 7, 2));
    assert_eq!((assignment.index, assignment.workers), (0, 1));
    assert_eq!(assignment.state, state()[0].lists);
}

#[test]
fn workers_that_hold_nothing_have_no_share_of_the_worker_state() {
    let mut machine = Machine::new(head(), 2, "nonce".into(), NOW);
    // Connected first, so that all three are there when the leases are given.
    for (number, worker) in [(1, "a"), (2, "b"), (3, "c")] {
        play(&mut machine, Event::Joined { connection: Connection(number), hello: join(worker, worker) });
    }
    let told = play(&mut machine, Event::ServerUp { server: "s".into(), address: "a".into() });
    let shares = told.iter().filter_map(|(_, message)| match message {
        ToWorker::Assignment(assignment) => Some(assignment.state.iter().flat_map(|list| &list.elements).count()),
        _ => None,
    });
    assert_eq!(shares.collect::<Vec<_>>(), [1, 0], "two shards, two workers, one element");
}
