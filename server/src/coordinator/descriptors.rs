//! State descriptors: what a state may be, and which changes keep it the state it is. Pure.
//!
//! Registering the same again changes nothing. TTL may be switched on, off or changed by registering: rows
//! keep the deadlines they were written with. Schemas change by `ReplaceDescriptor` only, which names the
//! version it replaces. Kind, codecs and function never change: rows are written in them.

use forebay_proto::{codec::CodecName, duration, merge::MergeFunction, reason::Refused, v1};
use v1::{ErrorReason as Reason, StateKind};

use super::spec;

/// Registers states of an operator in a head, all or none, and returns their ids.
pub fn register(
    next: &mut v1::JobHead,
    operator: &str,
    descriptors: &[v1::StateDescriptor],
) -> Result<Vec<u32>, Refused> {
    if !next.spec.iter().flat_map(|spec| &spec.operators).any(|known| known.name == operator) {
        return Err(Refused::new(Reason::OperatorUnknown, format!("the job has no operator {operator:?}")));
    }
    let leased = has_writer(next, operator);
    let mut added = next.states.clone();
    let mut next_id = next.next_state_id.max(1);
    let mut ids = Vec::new();
    for asked in descriptors {
        check(asked, leased)?;
        let asked = &complete(asked);
        let Some(known) = added.iter_mut().find(|state| names(state, operator, &asked.name)) else {
            let (operator, descriptor) = (operator.to_owned(), Some(asked.clone()));
            added.push(v1::RegisteredState { id: next_id, operator, descriptor, version: 1 });
            ids.push(next_id);
            next_id += 1;
            continue;
        };
        let registered = known.descriptor.clone().unwrap_or_default();
        let mut asked = asked.clone();
        if asked.schema.is_empty() && asked.schema_version == 0 {
            // Who says nothing of a schema has nothing against it.
            (asked.schema, asked.schema_version) = (registered.schema.clone(), registered.schema_version);
        }
        let asked = &asked;
        if (v1::StateDescriptor { ttl: asked.ttl, ..registered.clone() }) != *asked {
            return Err(incompatible(&registered, asked));
        }
        check_clock(&registered, asked)?;
        if registered.ttl != asked.ttl {
            known.descriptor = Some(asked.clone());
            known.version += 1;
        }
        ids.push(known.id);
    }
    next.states = added;
    next.next_state_id = next_id;
    Ok(ids)
}

/// True if each shard of an operator has one writer at a time, whoever grants it.
fn has_writer(head: &v1::JobHead, operator: &str) -> bool {
    spec::access(head.spec.as_ref(), operator) != Some(v1::Access::Shared)
}

/// Replaces TTL and schema of a registered state, and returns its id.
pub fn replace(next: &mut v1::JobHead, request: &v1::ReplaceDescriptorRequest) -> Result<u32, Refused> {
    let Some(asked) = &request.descriptor else {
        return Err(Refused::new(Reason::FieldMissing, "the descriptor is missing").field("descriptor"));
    };
    check(asked, has_writer(next, &request.operator))?;
    let asked = &complete(asked);
    let Some(known) = next.states.iter_mut().find(|state| names(state, &request.operator, &asked.name)) else {
        let message = format!("operator {:?} has no state {:?}: register it first", request.operator, asked.name);
        return Err(Refused::new(Reason::StateUnknown, message));
    };
    if known.version != request.expected_version {
        let message = format!(
            "state {:?} has version {}, the request replaces {}: look at it again",
            asked.name, known.version, request.expected_version
        );
        return Err(Refused::new(Reason::SettingsConflict, message).with("version", known.version));
    }
    let registered = known.descriptor.clone().unwrap_or_default();
    let (ttl, schema, schema_version) = (asked.ttl, asked.schema.clone(), asked.schema_version);
    if (v1::StateDescriptor { ttl, schema, schema_version, ..registered.clone() }) != *asked {
        return Err(incompatible(&registered, asked));
    }
    check_clock(&registered, asked)?;
    if registered != *asked {
        known.descriptor = Some(asked.clone());
        known.version += 1;
    }
    Ok(known.id)
}

fn names(state: &v1::RegisteredState, operator: &str, name: &str) -> bool {
    state.operator == operator && state.descriptor.as_ref().is_some_and(|known| known.name == name)
}

/// Says what is left out of a TTL, so that one who says it and one who does not mean the same.
fn complete(descriptor: &v1::StateDescriptor) -> v1::StateDescriptor {
    let ttl = descriptor.ttl.map(|mut ttl| {
        if ttl.update() == v1::TtlUpdate::Unspecified {
            ttl.set_update(v1::TtlUpdate::OnCreateAndWrite);
        }
        if ttl.visibility() == v1::TtlVisibility::Unspecified {
            ttl.set_visibility(v1::TtlVisibility::NeverReturnExpired);
        }
        if ttl.clock() == v1::TtlClock::Unspecified {
            ttl.set_clock(v1::TtlClock::Processing);
        }
        ttl.cleanup = ttl.cleanup.filter(|cleanup| *cleanup != v1::TtlCleanup::default());
        ttl
    });
    v1::StateDescriptor { ttl, ..descriptor.clone() }
}

fn check(descriptor: &v1::StateDescriptor, leased: bool) -> Result<(), Refused> {
    let name = &descriptor.name;
    let bytes = name.len();
    if bytes == 0 || bytes > 255 {
        let message = format!("a state name has {bytes} bytes: 1 to 255 are allowed");
        return Err(Refused::new(Reason::NameInvalid, message));
    }
    let invalid = |what: String| Err(Refused::new(Reason::FieldInvalid, format!("state {name:?}: {what}")));
    let Ok(kind) = StateKind::try_from(descriptor.kind) else {
        let kinds = "value, list, map, multimap, reducing, aggregating, sorted set";
        return invalid(format!("kind {} is unknown ({kinds})", descriptor.kind));
    };
    let codecs =
        [&descriptor.key_codec, &descriptor.namespace_codec, &descriptor.map_key_codec, &descriptor.value_codec];
    if let Some(codec) = codecs.into_iter().find(|codec| CodecName::parse(codec).is_none()) {
        let known = "bytes, utf8, i64, u64, f64, bool, json, msgpack, protobuf:<message>";
        return invalid(format!("codec {codec:?} is unknown ({known})"));
    }
    let function = MergeFunction::parse(&descriptor.function);
    match kind {
        StateKind::Unspecified => {
            return Err(Refused::new(Reason::FieldMissing, format!("state {name:?} has no kind")));
        }
        StateKind::Reducing | StateKind::Aggregating => {
            let of_kind = |function: &MergeFunction| function.kind() == kind;
            let Some(function) = function.filter(of_kind) else {
                let known: Vec<_> =
                    MergeFunction::ALL.iter().filter(|known| of_kind(known)).map(|f| f.name()).collect();
                return invalid(format!("function {:?} is unknown ({})", descriptor.function, known.join(", ")));
            };
            if let Some(codec) = function.value_codec()
                && descriptor.value_codec != codec
                && descriptor.value_codec != "bytes"
            {
                return invalid(format!("{function} takes values of codec {codec}, not {:?}", descriptor.value_codec));
            }
        }
        _ if !descriptor.function.is_empty() => {
            return invalid(format!("function {:?} is for reducing and aggregating states", descriptor.function));
        }
        _ => {}
    }
    descriptor.ttl.as_ref().map_or(Ok(()), |ttl| check_ttl(ttl, leased))
}

/// Deadlines in rows are of the clock they were written by, so a state keeps its clock; one without TTL is
/// read by the processing clock.
fn check_clock(registered: &v1::StateDescriptor, asked: &v1::StateDescriptor) -> Result<(), Refused> {
    let Some(before) = &registered.ttl else { return Ok(()) };
    let after = asked.ttl.map_or(v1::TtlClock::Processing, |ttl| ttl.clock());
    if after == before.clock() {
        return Ok(());
    }
    let name = |clock: v1::TtlClock| clock.as_str_name().trim_start_matches("TTL_CLOCK_").to_lowercase();
    let message = format!(
        "state {:?} counts its deadlines by the {} clock, asked is the {} clock: a clock is never changed \
         (to let entries live for ever, register a TTL of 100 years)",
        asked.name,
        name(before.clock()),
        name(after)
    );
    Err(Refused::new(Reason::StateIncompatible, message))
}

fn check_ttl(config: &v1::TtlConfig, leased: bool) -> Result<(), Refused> {
    let invalid = |message: String| Err(Refused::new(Reason::TtlInvalid, message));
    let Some(ttl) = &config.ttl else { return invalid("the TTL has no time: say how long entries live".into()) };
    if duration::millis(ttl).is_none() {
        return invalid(format!("the TTL is {} s and {} ns: at least a millisecond", ttl.seconds, ttl.nanos));
    }
    if config.clock() == v1::TtlClock::Event && !leased {
        return invalid("the event clock is the watermark of a writer: a shared operator has none".into());
    }
    if let Some(after) = config.cleanup.and_then(|cleanup| cleanup.periodic_compaction)
        && duration::seconds_up(&after).is_none()
    {
        let (seconds, nanos) = (after.seconds, after.nanos);
        return invalid(format!("its periodic compaction is after {seconds} s and {nanos} ns: 0 (never) or more"));
    }
    let known = v1::TtlClock::try_from(config.clock).is_ok()
        && v1::TtlUpdate::try_from(config.update).is_ok()
        && v1::TtlVisibility::try_from(config.visibility).is_ok();
    if known { Ok(()) } else { invalid("its clock, update or visibility is unknown to this build".into()) }
}

fn incompatible(registered: &v1::StateDescriptor, asked: &v1::StateDescriptor) -> Refused {
    let fields = |descriptor: &v1::StateDescriptor| {
        let kind = descriptor.kind().as_str_name().trim_start_matches("STATE_KIND_").to_lowercase();
        [
            ("kind", kind),
            ("key_codec", descriptor.key_codec.clone()),
            ("namespace_codec", descriptor.namespace_codec.clone()),
            ("map_key_codec", descriptor.map_key_codec.clone()),
            ("value_codec", descriptor.value_codec.clone()),
            ("function", descriptor.function.clone()),
            ("schema_version", descriptor.schema_version.to_string()),
            ("schema", format!("{} bytes", descriptor.schema.len())),
        ]
    };
    let differing = fields(registered).into_iter().zip(fields(asked)).filter(|(one, other)| one != other);
    let mut differing: Vec<_> =
        differing.map(|((field, is), (_, asked))| format!("{field} is {is:?}, asked is {asked:?}")).collect();
    if differing.is_empty() {
        differing.push("schema has other bytes".into());
    }
    let fixed = [&registered.key_codec, &registered.value_codec] == [&asked.key_codec, &asked.value_codec]
        && registered.kind == asked.kind
        && registered.function == asked.function;
    let hint = if fixed { " (a schema is changed by ReplaceDescriptor)" } else { "" };
    let message = format!("state {:?} is registered otherwise: {}{hint}", asked.name, differing.join("; "));
    Refused::new(Reason::StateIncompatible, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> v1::StateDescriptor {
        let codec = || "bytes".to_owned();
        v1::StateDescriptor {
            name: "s".into(),
            kind: StateKind::Value.into(),
            key_codec: codec(),
            namespace_codec: codec(),
            map_key_codec: codec(),
            value_codec: codec(),
            ..Default::default()
        }
    }

    fn head() -> v1::JobHead {
        let operators = vec![v1::Operator { name: "op".into(), ..Default::default() }];
        let spec = Some(v1::JobSpec { operators, ..Default::default() });
        v1::JobHead { spec, ..Default::default() }
    }

    fn ttl(seconds: i64) -> Option<v1::TtlConfig> {
        let ttl = Some(prost_types::Duration { seconds, nanos: 0 });
        Some(v1::TtlConfig { ttl, ..Default::default() })
    }

    fn replacing(descriptor: v1::StateDescriptor, expected_version: u64) -> v1::ReplaceDescriptorRequest {
        v1::ReplaceDescriptorRequest {
            operator: "op".into(),
            descriptor: Some(descriptor),
            expected_version,
            ..Default::default()
        }
    }

    #[test]
    fn registering_the_same_again_changes_nothing() {
        let mut head = head();
        assert_eq!(register(&mut head, "op", &[descriptor()]), Ok(vec![1]));
        let once = head.clone();
        assert_eq!(register(&mut head, "op", &[descriptor()]), Ok(vec![1]));
        assert_eq!(head, once);
    }

    #[test]
    fn ttl_may_be_switched_on_changed_and_off() {
        let mut head = head();
        for (change, version) in [(None, 1), (ttl(5), 2), (ttl(7), 3), (ttl(7), 3), (None, 4)] {
            register(&mut head, "op", &[v1::StateDescriptor { ttl: change, ..descriptor() }]).unwrap();
            let state = &head.states[0];
            let registered = state.descriptor.as_ref().unwrap().ttl.and_then(|ttl| ttl.ttl);
            assert_eq!((state.version, registered), (version, change.and_then(|ttl| ttl.ttl)));
        }
    }

    #[test]
    fn the_clock_of_deadlines_never_changes() {
        let with = |clock: v1::TtlClock| {
            let ttl = v1::TtlConfig { clock: clock.into(), ..ttl(5).unwrap() };
            v1::StateDescriptor { ttl: Some(ttl), ..descriptor() }
        };
        let mut head = head();
        register(&mut head, "op", &[with(v1::TtlClock::Event)]).unwrap();
        for other in [with(v1::TtlClock::Writer), with(v1::TtlClock::Processing), descriptor()] {
            let refused = register(&mut head, "op", std::slice::from_ref(&other)).unwrap_err();
            assert!(refused.message.contains("by the event clock"), "{}", refused.message);
            assert_eq!(replace(&mut head, &replacing(other, 1)).unwrap_err().reason, Reason::StateIncompatible);
        }
    }

    #[test]
    fn what_rows_are_written_in_never_changes() {
        let mut head = head();
        register(&mut head, "op", &[descriptor()]).unwrap();
        let others = [
            v1::StateDescriptor { kind: StateKind::List.into(), ..descriptor() },
            v1::StateDescriptor { key_codec: "utf8".into(), ..descriptor() },
            v1::StateDescriptor { value_codec: "i64".into(), ..descriptor() },
        ];
        for other in others {
            let refused = register(&mut head, "op", std::slice::from_ref(&other)).unwrap_err();
            assert_eq!(refused.reason, Reason::StateIncompatible);
            assert!(refused.message.contains("is ") && refused.message.contains("asked is"), "{}", refused.message);
            assert_eq!(replace(&mut head, &replacing(other, 1)).unwrap_err().reason, Reason::StateIncompatible);
        }
    }

    #[test]
    fn a_schema_is_replaced_by_whoever_knows_the_version() {
        let mut head = head();
        register(&mut head, "op", &[descriptor()]).unwrap();
        let new = v1::StateDescriptor { schema: "v2".into(), schema_version: 2, ..descriptor() };
        assert!(
            register(&mut head, "op", std::slice::from_ref(&new)).unwrap_err().message.contains("ReplaceDescriptor")
        );
        assert_eq!(replace(&mut head, &replacing(new.clone(), 1)), Ok(1));
        assert_eq!((head.states[0].version, &head.states[0].descriptor), (2, &Some(new.clone())));
        assert_eq!(replace(&mut head, &replacing(new.clone(), 1)).unwrap_err().reason, Reason::SettingsConflict);
        assert_eq!(replace(&mut head, &replacing(new, 2)), Ok(1), "the same again changes nothing");
        assert_eq!(head.states[0].version, 2);
        register(&mut head, "op", &[descriptor()]).expect("who says nothing of a schema has nothing against it");
        assert_eq!(head.states[0].version, 2);
    }

    #[test]
    fn what_a_ttl_leaves_out_is_said_so_that_nobody_changes_it_by_saying_it() {
        let mut head = head();
        let short = v1::StateDescriptor { ttl: ttl(5), ..descriptor() };
        register(&mut head, "op", std::slice::from_ref(&short)).unwrap();
        let mut long = ttl(5).unwrap();
        long.set_clock(v1::TtlClock::Processing);
        long.cleanup = Some(v1::TtlCleanup::default());
        register(&mut head, "op", &[v1::StateDescriptor { ttl: Some(long), ..descriptor() }]).unwrap();
        assert_eq!(head.states[0].version, 1);
    }

    #[test]
    fn wrong_descriptors_are_refused_with_what_is_allowed() {
        let reducing = StateKind::Reducing.into();
        let wrong = [
            (v1::StateDescriptor { name: String::new(), ..descriptor() }, "0 bytes"),
            (v1::StateDescriptor { kind: 99, ..descriptor() }, "kind 99"),
            (v1::StateDescriptor { kind: 0, ..descriptor() }, "no kind"),
            (v1::StateDescriptor { value_codec: "java".into(), ..descriptor() }, "msgpack"),
            (v1::StateDescriptor { function: "sum_i64".into(), ..descriptor() }, "reducing and aggregating"),
            (v1::StateDescriptor { kind: reducing, function: "avg".into(), ..descriptor() }, "sum_f64"),
            (v1::StateDescriptor { kind: StateKind::Aggregating.into(), ..descriptor() }, "count_distinct"),
            (
                v1::StateDescriptor {
                    kind: reducing,
                    function: "sum_i64".into(),
                    value_codec: "utf8".into(),
                    ..descriptor()
                },
                "codec i64",
            ),
            (v1::StateDescriptor { ttl: ttl(0), ..descriptor() }, "at least a millisecond"),
        ];
        for (wrong, said) in wrong {
            let refused = register(&mut head(), "op", &[wrong]).unwrap_err();
            assert!(refused.message.contains(said), "{}", refused.message);
        }
        assert_eq!(register(&mut head(), "other", &[]).unwrap_err().reason, Reason::OperatorUnknown);
        let event = v1::TtlConfig { clock: v1::TtlClock::Event.into(), ..ttl(1).unwrap() };
        assert!(check_ttl(&event, true).is_ok() && check_ttl(&event, false).is_err());
        let compacted = |seconds| {
            let after = Some(prost_types::Duration { seconds, nanos: 0 });
            let cleanup = Some(v1::TtlCleanup { periodic_compaction: after, ..Default::default() });
            check_ttl(&v1::TtlConfig { cleanup, ..ttl(1).unwrap() }, false)
        };
        assert!(compacted(0).is_ok() && compacted(3600).is_ok());
        let refused = compacted(-1).unwrap_err();
        assert!(refused.message.contains("after -1 s and 0 ns: 0 (never) or more"), "{}", refused.message);
    }
}
