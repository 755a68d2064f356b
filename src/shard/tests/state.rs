//! State channels: the value is what must arrive.

use super::harness::World;
use crate::hub::ChannelKind;
use crate::shard::Options;

fn one_state(options: &mut Options) {
    let namespace = &mut options.hub.namespaces[0];
    (namespace.kind, namespace.queue_bytes_max) = (ChannelKind::State, 1000);
}

fn publish(world: &mut World, data: &str, skip_history: bool) {
    let body = format!("{{\"channel\":\"c\",\"data\":\"{data}\",\"skip_history\":{skip_history}}}");
    assert_eq!(world.post("/api/publish", "", &body).status, 200);
}

#[test]
fn what_passes_by_never_takes_the_place_of_a_slow_readers_value() {
    let mut world = World::with(one_state);
    let reader = world.open("/channels/c?via=stream", "");
    world.read(reader);
    world.stall(reader);
    publish(&mut world, "old", false);
    publish(&mut world, "new", false);
    publish(&mut world, &"passing".repeat(100), true);
    publish(&mut world, &"passing".repeat(100), true);
    world.unstall(reader);
    let got = world.read(reader);
    assert!(got.contains("\"data\":\"new\",\"state\":true"), "{got}");
    assert_eq!((got.contains("gap"), world.is_closed(reader)), (false, false));
    publish(&mut world, "newest", false);
    assert!(world.read(reader).contains("newest"));
}

#[test]
fn what_passed_by_is_no_value_to_who_comes_later() {
    let mut world = World::with(one_state);
    publish(&mut world, "value", false);
    publish(&mut world, "passing", true);
    let reader = world.open("/channels/c", "");
    let got = world.read(reader);
    assert!(got.contains("value") && !got.contains("passing"), "{got}");
}
