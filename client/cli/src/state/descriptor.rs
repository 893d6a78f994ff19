//! How the descriptor of a state is shown.

use forebay_proto::{
    duration::millis,
    v1::{RegisteredState, StateDescriptor, TtlClock, TtlConfig, TtlUpdate, TtlVisibility},
};
use serde_json::{Value as Json, json};

use crate::output::{columns, duration, plain};

/// Returns the table of states.
pub fn states_table(states: &[RegisteredState]) -> String {
    let row = |state: &RegisteredState| {
        let descriptor = state.descriptor.clone().unwrap_or_default();
        [
            state.operator.clone(),
            descriptor.name.clone(),
            kind(&descriptor),
            or_dash(&descriptor.key_codec),
            or_dash(&descriptor.namespace_codec),
            or_dash(&descriptor.map_key_codec),
            or_dash(&descriptor.value_codec),
            or_dash(&descriptor.function),
            descriptor.ttl.as_ref().map_or_else(|| or_dash(""), ttl),
            state.version.to_string(),
        ]
    };
    let heads = ["OPERATOR", "STATE", "KIND", "KEY", "NAMESPACE", "MAP KEY", "VALUE", "FUNCTION", "TTL", "VERSION"];
    columns(heads, states.iter().map(row))
}

/// Returns a state.
pub fn state_json(state: &RegisteredState) -> Json {
    let descriptor = state.descriptor.clone().unwrap_or_default();
    json!({
        "id": state.id,
        "operator": state.operator,
        "name": descriptor.name,
        "kind": kind(&descriptor),
        "key_codec": descriptor.key_codec,
        "namespace_codec": descriptor.namespace_codec,
        "map_key_codec": descriptor.map_key_codec,
        "value_codec": descriptor.value_codec,
        "function": descriptor.function,
        "ttl": descriptor.ttl.as_ref().map(ttl_json),
        "schema_version": descriptor.schema_version,
        "schema_bytes": descriptor.schema.len(),
        "version": state.version,
    })
}

/// Returns the kind of a state as people type it.
pub fn kind(descriptor: &StateDescriptor) -> String {
    plain(descriptor.kind().as_str_name(), "STATE_KIND_")
}

/// Shows a TTL: its time, and what is not as usual.
fn ttl(config: &TtlConfig) -> String {
    let mut parts = vec![duration(ttl_ms(config))];
    if config.update() == TtlUpdate::OnReadAndWrite {
        parts.push(update(config).to_owned());
    }
    if !matches!(config.clock(), TtlClock::Unspecified | TtlClock::Processing) {
        parts.push(clock(config));
    }
    if config.visibility() == TtlVisibility::ReturnExpiredIfNotCleanedUp {
        parts.push(visibility(config).to_owned());
    }
    parts.join(", ")
}

fn ttl_json(config: &TtlConfig) -> Json {
    json!({
        "ttl_ms": ttl_ms(config),
        "update": update(config),
        "clock": clock(config),
        "visibility": visibility(config),
    })
}

fn ttl_ms(config: &TtlConfig) -> u64 {
    let ms = config.ttl.as_ref().and_then(millis).unwrap_or_default();
    u64::try_from(ms).unwrap_or_default()
}

fn update(config: &TtlConfig) -> &'static str {
    if config.update() == TtlUpdate::OnReadAndWrite { "read-and-write" } else { "write" }
}

fn clock(config: &TtlConfig) -> String {
    match config.clock() {
        TtlClock::Unspecified => "processing".to_owned(),
        clock => plain(clock.as_str_name(), "TTL_CLOCK_"),
    }
}

fn visibility(config: &TtlConfig) -> &'static str {
    match config.visibility() {
        TtlVisibility::ReturnExpiredIfNotCleanedUp => "if-not-cleaned-up",
        TtlVisibility::Unspecified | TtlVisibility::NeverReturnExpired => "never-expired",
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ttl_is_shown_with_what_is_not_as_usual() {
        let mut config = TtlConfig { ttl: Duration::from_secs(3600).try_into().ok(), ..TtlConfig::default() };
        assert_eq!(ttl(&config), "1h");
        config.set_update(TtlUpdate::OnReadAndWrite);
        config.set_clock(TtlClock::Event);
        config.set_visibility(TtlVisibility::ReturnExpiredIfNotCleanedUp);
        assert_eq!(ttl(&config), "1h, read-and-write, event, if-not-cleaned-up");
        let json = ttl_json(&config);
        assert_eq!((&json["ttl_ms"], &json["clock"]), (&json!(3_600_000), &json!("event")));
    }
}
