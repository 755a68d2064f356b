//! Readers that do not keep up: what waits for them, what they are told of what they missed, and when they are cut off.

use std::time::Duration;

use super::harness::{Told, World, frame, namespace};
use crate::base::StreamPosition;
use crate::hub::{ChannelKind, Namespace, SlowConsumer};
use crate::shard::Options;
use crate::transport::event_stream::tests::read;
use crate::ws::Opcode;

/// `drop:`, `latest:` and `state:` with what their names say, each with a window in which publications gather to runs.
fn dropping(options: &mut Options) {
    let dropping = |name: &str, slow_consumer| Namespace { slow_consumer, queue_bytes_max: 4 << 10, ..namespace(name) };
    let gathered = Namespace { coalesce: Duration::from_millis(10), ..dropping("drop", SlowConsumer::DropOldest) };
    let state = Namespace { kind: ChannelKind::State, ..dropping("state", SlowConsumer::Disconnect) };
    options.hub.namespaces.extend([gathered, dropping("latest", SlowConsumer::Latest), state]);
}

/// What a reader of one channel has been told, item by item: it may begin anywhere and must follow on itself.
#[derive(Default)]
struct Ledger {
    at: Option<u64>,
    got: u64,
    missed: u64,
}

impl Ledger {
    fn item(&mut self, item: &serde_json::Value) {
        let offset = |position: &serde_json::Value| StreamPosition::parse(position.as_str().unwrap()).unwrap().offset;
        let (after, to) = match item.get("missed") {
            Some(missed) => {
                self.missed += missed.as_u64().unwrap();
                (offset(&item["after"]), offset(&item["next"]) - 1)
            }
            None => {
                self.got += 1;
                (offset(&item["position"]) - 1, offset(&item["position"]))
            }
        };
        assert_eq!(*self.at.get_or_insert(after), after, "{item}");
        self.at = Some(to);
    }
}

#[test]
fn a_reader_of_several_channels_is_told_of_every_publication_it_missed() {
    let mut world = World::with(dropping);
    let events = world.events("/channels?channel=drop:a&channel=drop:b", "");
    world.read(events);
    world.give_room(events, 100);
    for step in 0..600 {
        world.publish(["drop:a", "drop:b"][step % 2], "what a reader may miss");
        if step % 7 == 0 {
            world.pass(Duration::from_millis(10));
        }
        if step == 400 {
            world.give_room(events, 1000);
        }
    }
    world.unstall(events);
    world.pass(Duration::from_millis(20));
    let mut ledgers = [Ledger::default(), Ledger::default()];
    for (_, _, data) in read(&world.read(events)) {
        let item: serde_json::Value = serde_json::from_str(&data).unwrap();
        ledgers[usize::from(item["channel"] == "drop:b")].item(&item);
    }
    for ledger in ledgers {
        assert_eq!((ledger.got + ledger.missed, ledger.at), (300, Some(300)), "{} got", ledger.got);
        assert!(ledger.missed > 200 && ledger.got > 10, "{} missed", ledger.missed);
    }
}

#[test]
fn values_larger_than_the_queue_replace_each_other_and_disconnect_nobody() {
    for channel in ["latest:a", "state:a"] {
        let mut world = World::with(dropping);
        let socket = world.websocket(&format!("/channels/{channel}"), "");
        world.told(socket);
        let value = |number: usize| format!("{number}{}", "x".repeat(60_000));
        world.give_room(socket, 1000);
        for number in 0..5 {
            world.publish(channel, &value(number));
        }
        assert!(world.shards[0].connections.queued_bytes() < 125_000, "what has begun, and the newest");
        world.unstall(socket);
        let items = world.items(socket);
        let numbers: Vec<_> = items.iter().map(|item| item["data"].as_str().map(|data| data[..1].to_owned())).collect();
        let gap = if channel == "latest:a" { vec![None] } else { Vec::new() };
        assert_eq!(numbers, [vec![Some("0".to_owned())], gap, vec![Some("4".to_owned())]].concat(), "{channel}");
        if channel == "latest:a" {
            assert_eq!(items[1]["gap"]["missed"], 3);
        }
    }
}

#[test]
fn no_policy_touches_the_response_of_a_poll() {
    let mut world = World::with(dropping);
    world.publish("drop:a", "first");
    let poller = world.connect();
    world.stall(poller);
    let mut asked = 0;
    for _ in 0..40 {
        world.send(poller, "GET /channels/drop:a?wait=9 HTTP/1.1\r\nHost: h\r\n\r\n");
        asked += 1;
        world.publish("drop:a", &"x".repeat(1000));
        world.pass(Duration::from_millis(20));
    }
    world.unstall(poller);
    let mut answered = 0;
    while let Some(answer) = world.try_answer(poller) {
        assert_eq!(answer.status, 200);
        assert!(answer.json()["messages"].is_array(), "{}", answer.body);
        answered += 1;
    }
    assert_eq!(world.read(poller), "", "nothing between the responses");
    assert!(answered > 10 && asked - answered < 2, "{answered} of {asked}");
}

#[test]
fn who_takes_nothing_for_a_minute_is_cut_off_and_who_takes_a_byte_is_not() {
    let mut world = World::with(|options| options.transport.keep_alive_interval = Duration::from_secs(3600));
    let [dead, slow] = ["a", "a"].map(|channel| world.events(&format!("/channels/{channel}"), ""));
    for conn in [dead, slow] {
        world.stall(conn);
    }
    world.publish("a", "what waits for them");
    for _ in 0..4 {
        world.pass(Duration::from_secs(29));
        world.give_room(dead, 0);
        world.give_room(slow, 1);
    }
    assert!(world.is_closed(dead) && !world.is_closed(slow));
    let cut: Vec<_> = world.shards[0].metrics.disconnects.iter().map(|(labels, count)| format!("{labels:?} {count}")).collect();
    assert!(cut.len() == 1 && cut[0].contains("3008"), "{cut:?}");
}

#[test]
fn what_a_client_asked_before_it_was_cut_off_is_not_done_after_it() {
    let mut world = World::with(|options| {
        options.server.echo = true;
        options.ws.message_bytes_max = 4 << 20;
    });
    let socket = world.websocket("/echo", "");
    world.stall(socket);
    let message = |bytes: usize| frame(Opcode::Text, "x".repeat(bytes));
    // All in one receive.
    world.receive(socket, [message(10), message(2 << 20), message(10)].concat());
    world.settle();
    assert!(world.is_closed(socket));
    let count = |family: &crate::metrics::Labelled| family.iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(count(&world.shards[0].metrics.ws_messages_received), 2);
    assert_eq!(count(&world.shards[0].metrics.disconnects), 1);
    assert_eq!(world.told(socket), Vec::<Told>::new());
}
