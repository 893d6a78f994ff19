//! What a job may be: defaults for what its creator left out, and refusals for what cannot be. Pure.

use std::collections::BTreeSet;

use forebay_proto::{
    key_group::{MaxParallelism, assign},
    reason::Refused,
    v1,
};
use v1::ErrorReason as Reason;

/// Largest value that a job may allow, in bytes.
const VALUE_BYTES_LIMIT: u64 = 64 << 20;
/// Most rounds at a time; shards hold a view for each.
const CONCURRENT_LIMIT: u32 = 8;
/// Most completed checkpoints that are kept; the head lists them all.
const RETAINED_LIMIT: u32 = 1000;

/// Fills in the defaults of semantics.md, section 14, and checks what is there.
pub fn complete(mut spec: v1::JobSpec) -> Result<v1::JobSpec, Refused> {
    check_name("job name", &spec.name)?;
    if spec.max_parallelism == 0 {
        spec.max_parallelism = MaxParallelism::DEFAULT.get();
    }
    let max = MaxParallelism::new(spec.max_parallelism)
        .map_err(|error| Refused::new(Reason::FieldInvalid, error.to_string()).field("spec.max_parallelism"))?;
    if spec.operators.is_empty() {
        return Err(missing("spec.operators", "the job has no operators: name at least one"));
    }
    let mut names = BTreeSet::new();
    for operator in &mut spec.operators {
        check_name("operator name", &operator.name)?;
        if !names.insert(operator.name.clone()) {
            return Err(conflict(format!("operator {:?} is named twice", operator.name)));
        }
        default_to(&mut operator.access, v1::Access::Leased as i32);
        known::<v1::Access>("access", operator.access)?;
        if operator.access() == v1::Access::External {
            if operator.shards > 0 || operator.source {
                let message = format!(
                    "operator {:?} is external: its engine opens the shards and drives its sources itself",
                    operator.name
                );
                return Err(conflict(message));
            }
            continue;
        }
        if operator.shards == 0 {
            operator.shards = 8.min(max.get());
        }
        if operator.shards > max.get() {
            let message = format!("{} shards of {max} key groups: at most one each", operator.shards);
            return Err(conflict(message));
        }
    }
    known::<v1::Backend>("backend", spec.backend)?;
    known::<v1::Durability>("durability", spec.durability)?;
    known::<v1::Partitioner>("partitioner", spec.partitioner)?;
    known::<v1::Recovery>("recovery", spec.recovery)?;
    default_to(&mut spec.backend, v1::Backend::Rocksdb as i32);
    let memory = spec.backend() == v1::Backend::Memory;
    if !memory && !cfg!(feature = "rocksdb") {
        let message = "this build has no RocksDB: say backend memory, or build with the feature rocksdb";
        return Err(Refused::new(Reason::Unsupported, message).field("spec.backend"));
    }
    default_to(&mut spec.durability, if memory { v1::Durability::None } else { v1::Durability::Wal } as i32);
    if memory && spec.durability() != v1::Durability::None {
        return Err(conflict("the memory backend has no log: its durability is none".into()));
    }
    if spec.durability() == v1::Durability::Checkpoint {
        return Err(conflict(
            "a job's durability is none, wal or wal_sync; wait for checkpoints by AwaitDurable".into(),
        ));
    }
    default_to(&mut spec.partitioner, v1::Partitioner::Murmur3 as i32);
    default_to(&mut spec.recovery, v1::Recovery::Job as i32);
    if spec.recovery() == v1::Recovery::Shard {
        check_positions(&spec)?;
    }
    if spec.lease_ms == 0 {
        spec.lease_ms = 15_000;
    }
    spec.checkpoints = Some(checkpoints(spec.checkpoints)?);
    spec.limits = Some(limits(spec.limits)?);
    Ok(spec)
}

/// Positions in the shards tell what a shard contains only if its writer reads the source itself, and has nothing in
/// flight that a checkpoint would have to hold.
fn check_positions(spec: &v1::JobSpec) -> Result<(), Refused> {
    if spec.checkpoints.is_some_and(|checkpoints| checkpoints.unaligned) {
        return Err(conflict(
            "recovery: shard has no unaligned checkpoints: nothing is in flight between its workers".into(),
        ));
    }
    let leased: Vec<_> = spec.operators.iter().filter(|operator| operator.access() == v1::Access::Leased).collect();
    let behind = leased.iter().find(|operator| !operator.source);
    if let Some(behind) = behind.filter(|_| leased.iter().any(|operator| operator.source)) {
        return Err(conflict(format!(
            "operator {:?} is no source: under recovery: shard every worker reads its sources itself (use recovery: job)",
            behind.name
        )));
    }
    Ok(())
}

/// True if positions are kept in the job's shards, and a failure takes nothing else back.
pub fn keeps_positions(spec: Option<&v1::JobSpec>) -> bool {
    spec.is_some_and(|spec| spec.recovery() == v1::Recovery::Shard)
}

/// Who may write an operator's shards; `None` if the job has no such operator.
pub fn access(spec: Option<&v1::JobSpec>, operator: &str) -> Option<v1::Access> {
    let known = spec.into_iter().flat_map(|spec| &spec.operators).find(|known| known.name == operator)?;
    Some(match known.access() {
        // In heads that were written before it was filled in.
        v1::Access::Unspecified => v1::Access::Leased,
        access => access,
    })
}

/// True if the operator exists and its shards are leased to workers.
pub fn is_leased(spec: Option<&v1::JobSpec>, operator: &str) -> bool {
    access(spec, operator) == Some(v1::Access::Leased)
}

/// The shards of a new job, without servers.
pub fn shards(spec: &v1::JobSpec) -> Vec<v1::ShardEntry> {
    let max = MaxParallelism::new(spec.max_parallelism).unwrap_or_default();
    let of = |operator: &v1::Operator| {
        let name = operator.name.clone();
        let ranges = assign(max, operator.shards).into_iter();
        ranges.map(move |range| v1::ShardEntry {
            operator: name.clone(),
            start: range.start(),
            end: range.end(),
            ..Default::default()
        })
    };
    let own = spec.operators.iter().filter(|operator| operator.access() != v1::Access::External);
    own.flat_map(of).collect()
}

/// Checks a name of a job or operator: `[a-z0-9][a-z0-9_-]{0,62}`.
pub fn check_name(what: &str, name: &str) -> Result<(), Refused> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = name.len() <= 63
        && name.bytes().enumerate().all(|(index, byte)| plain(byte) || (index > 0 && matches!(byte, b'_' | b'-')))
        && !name.is_empty();
    if valid {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    let message = format!("{what} {shown:?} is not allowed: [a-z0-9][a-z0-9_-]{{0,62}}");
    Err(Refused::new(Reason::NameInvalid, message))
}

fn checkpoints(given: Option<v1::CheckpointSettings>) -> Result<v1::CheckpointSettings, Refused> {
    let mut settings = given.unwrap_or_default();
    let interval = *settings.interval_ms.get_or_insert(60_000);
    settings.incremental.get_or_insert(true);
    if settings.timeout_ms == 0 {
        settings.timeout_ms = 600_000;
    }
    settings.max_concurrent = settings.max_concurrent.max(1);
    if settings.retained == 0 {
        settings.retained = 3;
    }
    if interval != 0 && interval < 10 {
        return Err(conflict(format!("checkpoints.interval is {interval} ms: at least 10 ms")));
    }
    known::<v1::CheckpointMode>("checkpoints.mode", settings.mode)?;
    default_to(&mut settings.mode, v1::CheckpointMode::ExactlyOnce as i32);
    if settings.unaligned && settings.mode() != v1::CheckpointMode::ExactlyOnce {
        return Err(conflict(format!(
            "checkpoints.mode is {} where unaligned is true: that is a way to be exact, say exactly_once",
            settings.mode().as_str_name()
        )));
    }
    if settings.unaligned && settings.max_concurrent > 1 {
        return Err(conflict(format!(
            "checkpoints.max_concurrent is {}: an unaligned one leaves no room for a second",
            settings.max_concurrent
        )));
    }
    if settings.max_concurrent > CONCURRENT_LIMIT {
        let message = format!("checkpoints.max_concurrent is {}: at most {CONCURRENT_LIMIT}", settings.max_concurrent);
        return Err(conflict(message));
    }
    if settings.retained > RETAINED_LIMIT {
        return Err(conflict(format!("checkpoints.retained is {}: at most {RETAINED_LIMIT}", settings.retained)));
    }
    if settings.min_pause_ms > 0 && settings.max_concurrent > 1 {
        return Err(conflict("checkpoints.min_pause leaves no room for max_concurrent above 1".into()));
    }
    if settings.full_every > 0 && settings.incremental == Some(false) {
        return Err(conflict("checkpoints.full_every means nothing where incremental is false".into()));
    }
    Ok(settings)
}

fn limits(given: Option<v1::Limits>) -> Result<v1::Limits, Refused> {
    let mut limits = given.unwrap_or_default();
    if limits.max_value_bytes == 0 {
        limits.max_value_bytes = 8 << 20;
    }
    if limits.max_value_bytes > VALUE_BYTES_LIMIT {
        let message = format!("limits.max_value_bytes is {}: at most {VALUE_BYTES_LIMIT}", limits.max_value_bytes);
        return Err(conflict(message));
    }
    if [limits.max_state_bytes, limits.max_ops_per_second, limits.max_in_flight_bytes].iter().any(|limit| *limit != 0) {
        let message = "max_state_bytes, max_ops_per_second and max_in_flight_bytes are not served by this build";
        return Err(Refused::new(Reason::Unsupported, message).field("spec.limits"));
    }
    if limits.max_lanes == 0 {
        limits.max_lanes = 1024;
    }
    Ok(limits)
}

fn default_to(field: &mut i32, value: i32) {
    if *field == 0 {
        *field = value;
    }
}

/// Refuses a number that this build has no name for; read as the default it would be another setting.
fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<(), Refused> {
    E::try_from(value).map(drop).map_err(|_| {
        let message = format!("{field} {value} is unknown to this build");
        Refused::new(Reason::FieldInvalid, message).field(format!("spec.{field}"))
    })
}

fn missing(field: &str, message: &str) -> Refused {
    Refused::new(Reason::FieldMissing, message).field(field)
}

fn conflict(message: String) -> Refused {
    Refused::new(Reason::SettingsConflict, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> v1::JobSpec {
        let operators = vec![v1::Operator { name: "stats".into(), ..Default::default() }];
        v1::JobSpec { name: "flights".into(), operators, ..Default::default() }
    }

    #[cfg(feature = "rocksdb")]
    #[test]
    fn what_is_left_out_has_the_documented_defaults() {
        let spec = complete(spec()).unwrap();
        assert_eq!((spec.max_parallelism, spec.operators[0].shards, spec.lease_ms), (128, 8, 15_000));
        assert_eq!((spec.backend(), spec.durability()), (v1::Backend::Rocksdb, v1::Durability::Wal));
        let checkpoints = spec.checkpoints.unwrap();
        assert_eq!((checkpoints.interval_ms(), checkpoints.timeout_ms, checkpoints.retained), (60_000, 600_000, 3));
        assert_eq!(shards(&complete(tests::spec()).unwrap()).len(), 8);
    }

    #[cfg(feature = "rocksdb")]
    #[test]
    fn a_completed_spec_is_complete() {
        let once = complete(spec()).unwrap();
        assert_eq!(complete(once.clone()).unwrap(), once);
    }

    #[test]
    fn bad_names_are_refused_with_the_rule() {
        for name in ["", "-a", "A", "../x", "a/b", "a\0", "ä", &"a".repeat(64)] {
            let refused = complete(v1::JobSpec { name: name.into(), ..spec() }).unwrap_err();
            assert_eq!(refused.reason, Reason::NameInvalid, "{name:?}");
        }
        assert!(check_name("job name", &"a".repeat(63)).is_ok());
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        // Of the backend that every build has.
        let spec = || v1::JobSpec { backend: v1::Backend::Memory.into(), ..spec() };
        let reason = |change: fn(&mut v1::JobSpec)| {
            let mut spec = spec();
            change(&mut spec);
            complete(spec).unwrap_err().reason
        };
        let checkpoints = |change: fn(&mut v1::CheckpointSettings)| {
            let mut spec = spec();
            change(spec.checkpoints.get_or_insert_default());
            complete(spec).map(|spec| spec.checkpoints.unwrap()).map_err(|refused| refused.reason)
        };
        let conflicts: [fn(&mut v1::CheckpointSettings); 7] = [
            |settings| settings.max_concurrent = 9,
            |settings| settings.retained = 1001,
            |settings| (settings.unaligned, settings.max_concurrent) = (true, 2),
            |settings| (settings.unaligned, settings.mode) = (true, v1::CheckpointMode::AtLeastOnce.into()),
            |settings| (settings.min_pause_ms, settings.max_concurrent) = (1, 2),
            |settings| (settings.full_every, settings.incremental) = (2, Some(false)),
            |settings| settings.interval_ms = Some(9),
        ];
        for conflict in conflicts {
            assert_eq!(checkpoints(conflict), Err(Reason::SettingsConflict));
        }
        assert_eq!(checkpoints(|settings| settings.mode = 7), Err(Reason::FieldInvalid));
        let served = checkpoints(|settings| {
            settings.set_mode(v1::CheckpointMode::AtLeastOnce);
            (settings.full_every, settings.tolerable_failures, settings.delete_on_cancel) = (3, Some(0), true);
        });
        assert_eq!(served.unwrap().mode(), v1::CheckpointMode::AtLeastOnce);
        assert_eq!(reason(|spec| spec.limits.get_or_insert_default().max_state_bytes = 2), Reason::Unsupported);
        assert_eq!(reason(|spec| spec.operators.clear()), Reason::FieldMissing);
        assert_eq!(reason(|spec| spec.operators.push(spec.operators[0].clone())), Reason::SettingsConflict);
        assert_eq!(reason(|spec| spec.operators[0].shards = 129), Reason::SettingsConflict);
        assert_eq!(reason(|spec| spec.max_parallelism = 32_769), Reason::FieldInvalid);
        let memory_with_log = |spec: &mut v1::JobSpec| {
            spec.set_backend(v1::Backend::Memory);
            spec.set_durability(v1::Durability::Wal);
        };
        assert_eq!(reason(memory_with_log), Reason::SettingsConflict);
    }

    #[test]
    fn positions_are_kept_in_shards_only_where_they_tell_what_a_shard_contains() {
        let with = |change: fn(&mut v1::JobSpec)| {
            let mut spec = v1::JobSpec { backend: v1::Backend::Memory.into(), ..spec() };
            spec.set_recovery(v1::Recovery::Shard);
            change(&mut spec);
            complete(spec).map(|spec| spec.recovery()).map_err(|refused| refused.reason)
        };
        assert_eq!(with(|_| {}), Ok(v1::Recovery::Shard));
        assert_eq!(
            with(|spec| spec.checkpoints.get_or_insert_default().unaligned = true),
            Err(Reason::SettingsConflict)
        );
        let behind = |spec: &mut v1::JobSpec| {
            spec.operators[0].source = true;
            spec.operators.push(v1::Operator { name: "behind".into(), ..Default::default() });
        };
        assert_eq!(with(behind), Err(Reason::SettingsConflict));
    }
}
