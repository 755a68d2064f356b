//! Pings, pongs and keep-alives.

use std::time::Duration;

use super::harness::{Told, World, frame};
use crate::ws::Opcode;

#[test]
fn silence_is_kept_alive_audibly() {
    let mut world = World::new();
    let interval = Duration::from_secs(15);
    let events = world.open("/channels/a?via=sse", "");
    let opening = world.read(events);
    let retry: u64 = opening.split("retry: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok()).expect("a delay");
    assert!((1000..=4000).contains(&retry), "{opening}");
    assert!(opening.contains("id: "), "{opening}");
    let lines = world.open("/channels/a?via=stream", "");
    world.read(lines);
    // The first one is up to a quarter early.
    world.pass(interval * 3 / 4 - Duration::from_millis(100));
    assert_eq!((world.read(events), world.read(lines)), (String::new(), String::new()));
    world.pass(interval / 4 + Duration::from_millis(300));
    assert_eq!((world.read(events).as_str(), world.read(lines).as_str()), ("3\r\n:\n\n\r\n", "3\r\n{}\n\r\n"));
    world.pass(interval);
    assert_eq!((world.read(events).as_str(), world.read(lines).as_str()), ("3\r\n:\n\n\r\n", "3\r\n{}\n\r\n"));
}

#[test]
fn a_crowd_that_came_together_is_not_pinged_together() {
    let mut world = World::new();
    let interval = world.shards[0].options.ws.ping_interval;
    let crowd: Vec<_> = (0..200).map(|_| world.websocket("/channels/a", "")).collect();
    let pinged_in = |world: &mut World, time: Duration| {
        world.pass(time);
        let is_ping = |told: &Told| matches!(told, Told::Other);
        crowd.iter().filter(|&&socket| world.told(socket).iter().any(is_ping)).count()
    };
    assert_eq!(pinged_in(&mut world, interval * 3 / 4 - Duration::from_millis(100)), 0, "none is pinged much too early");
    let eighths = [pinged_in(&mut world, interval / 8), pinged_in(&mut world, interval / 8)];
    assert!(eighths.iter().all(|&pinged| pinged > 50), "{eighths:?}");
    assert_eq!(eighths[0] + eighths[1] + pinged_in(&mut world, Duration::from_millis(300)), 200, "and none too late");
}

#[test]
fn who_talks_is_not_pinged() {
    let mut world = World::new();
    let interval = world.shards[0].options.ws.ping_interval;
    let socket = world.websocket("/channels/a", "");
    world.told(socket);
    for _ in 0..20 {
        world.pass(interval / 3);
        world.send(socket, frame(Opcode::Pong, b""));
    }
    assert_eq!(world.told(socket), []);
    world.pass(interval);
    assert_eq!(world.told(socket), [Told::Other]);
}

#[test]
fn who_does_not_answer_a_ping_is_closed() {
    let mut world = World::new();
    let socket = world.websocket("/channels/a", "");
    world.told(socket);
    let (interval, timeout) = (world.shards[0].options.ws.ping_interval, world.shards[0].options.ws.pong_timeout);
    world.pass(interval);
    assert_eq!(world.told(socket), [Told::Other]);
    world.pass(timeout);
    assert_eq!(world.close_frame(socket).0, 3012);
}

#[test]
fn a_worker_that_stood_still_does_not_blame_its_peers() {
    let mut world = World::new();
    let [silent, answers] = [(); 2].map(|()| world.websocket("/channels/a", ""));
    for socket in [silent, answers] {
        world.told(socket);
    }
    let (interval, timeout) = (world.shards[0].options.ws.ping_interval, world.shards[0].options.ws.pong_timeout);
    world.pass(interval);
    world.jump(2 * timeout);
    world.settle();
    assert_eq!([silent, answers].map(|socket| world.told(socket)), [[Told::Other], [Told::Other]], "only the ping");
    world.send(answers, frame(Opcode::Pong, b""));
    world.pass(timeout);
    assert_eq!((world.close_frame(silent).0, world.told(answers)), (3012, vec![]));
}
