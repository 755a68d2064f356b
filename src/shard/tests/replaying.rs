//! Ways through history: in pages, at the reader's pace, whatever happens meanwhile.

use super::harness::{World, namespace};
use crate::base::ConnId;
use crate::hub::{ChannelKind, Namespace};

const PAYLOAD: usize = 20_000;

fn payload(number: usize) -> String {
    format!("{number:03}{}", "x".repeat(PAYLOAD))
}

/// Numbers of the publications in an event stream.
fn numbers(stream: &str) -> Vec<usize> {
    stream.lines().filter_map(|line| line.strip_prefix("data: ")?.get(..3)?.parse().ok()).collect()
}

/// Lets a reader have everything, in small steps; returns what it has read and the most that ever waited for it.
fn drip(world: &mut World, reader: ConnId, step: usize) -> (String, usize) {
    let (mut read, mut most) = (String::new(), 0);
    loop {
        world.give_room(reader, step);
        most = most.max(world.shards[0].connections.queued_bytes());
        let got = world.read(reader);
        if got.is_empty() {
            return (read, most);
        }
        read.push_str(&got);
    }
}

#[test]
fn one_page_waits_for_a_slow_reader_however_many_channels_it_has() {
    let mut world = World::new();
    let channels: Vec<String> = (0..32).map(|number| format!("c{number}")).collect();
    for channel in &channels {
        for number in 0..10 {
            world.publish(channel, &payload(number));
        }
    }
    let reader = world.connect();
    world.stall(reader);
    let query: Vec<String> = channels.iter().map(|channel| format!("channel={channel}")).collect();
    world.send(reader, format!("GET /channels?{}&via=stream&since=start HTTP/1.0\r\nHost: h\r\n\r\n", query.join("&")));
    let (read, most) = drip(&mut world, reader, 3000);
    assert!(most < 64 << 10, "{most} bytes waited");
    assert!(!world.is_closed(reader));
    for channel in &channels {
        let item = format!("{{\"channel\":\"{channel}\",");
        let own: Vec<usize> = read
            .lines()
            .filter(|line| line.starts_with(&item))
            .map(|line| line.split("\"data\":\"").nth(1).unwrap()[..3].parse().unwrap())
            .collect();
        assert_eq!(own, (0..10).collect::<Vec<_>>(), "{channel}");
    }
}

#[test]
fn no_channel_waits_until_another_has_caught_up() {
    let mut world = World::new();
    for number in 0..10 {
        world.publish("a", &payload(number));
        world.publish("b", &payload(number));
    }
    let reader = world.events("/channels?channel=a&channel=b&since=start", "");
    world.stall(reader);
    let (read, _) = drip(&mut world, reader, 3000);
    let first = |channel: &str| read.find(&format!("{{\"channel\":\"{channel}\"")).unwrap();
    let last = |channel: &str| read.rfind(&format!("{{\"channel\":\"{channel}\"")).unwrap();
    assert!(first("a") < last("b") && first("b") < last("a"));
}

#[test]
fn what_waits_of_history_leaves_live_publications_their_room() {
    let mut world = World::new();
    world.publish("a", &format!("000{}", "x".repeat(250 << 10)));
    let reader = world.connect();
    world.stall(reader);
    world.send(reader, "GET /channels/a?via=sse&since=start HTTP/1.0\r\nHost: h\r\n\r\n");
    for number in 1..4 {
        world.publish("a", &format!("{number:03}"));
    }
    let (read, _) = drip(&mut world, reader, 10_000);
    assert_eq!(numbers(&read), [0, 1, 2, 3]);
    assert!(!read.contains("event: "), "neither gap nor end");
}

#[test]
fn history_that_goes_while_it_is_read_is_a_gap_behind_what_was_read() {
    let mut world = World::with(|options| options.hub.namespaces[0].history_size = 10);
    for number in 0..10 {
        world.publish("a", &payload(number));
    }
    let reader = world.connect();
    world.stall(reader);
    world.send(reader, "GET /channels/a?via=sse&since=start HTTP/1.0\r\nHost: h\r\n\r\n");
    for number in 10..30 {
        world.publish("a", &payload(number));
    }
    let (read, _) = drip(&mut world, reader, 10_000);
    let gap = read.lines().skip_while(|line| *line != "event: gap").nth(1).unwrap();
    let gap: serde_json::Value = serde_json::from_str(gap.strip_prefix("data: ").unwrap()).unwrap();
    let (before, behind) = numbers(&read).into_iter().partition::<Vec<_>, _>(|number| *number < 10);
    assert_eq!(behind, (20..30).collect::<Vec<_>>());
    assert_eq!(before, (0..before.len()).collect::<Vec<_>>());
    assert_eq!((gap["reason"].as_str(), gap["missed"].as_u64()), (Some("expired"), Some(20 - before.len() as u64)));
    assert!(gap["after"].as_str().unwrap().ends_with(&format!(":{}", before.len())), "{gap}");
}

#[test]
fn a_state_channel_that_has_to_wait_for_room_tells_its_value_and_no_gap() {
    let mut world = World::with(|options| {
        options.hub.namespaces.push(Namespace { kind: ChannelKind::State, ..namespace("state") });
    });
    for channel in ["state:a", "state:b"] {
        world.publish(channel, &payload(1));
    }
    let reader = world.connect();
    world.stall(reader);
    world.send(reader, "GET /channels?channel=state:a&channel=state:b&via=stream HTTP/1.0\r\nHost: h\r\n\r\n");
    for channel in ["state:a", "state:b"] {
        world.publish(channel, &payload(2));
    }
    let (read, _) = drip(&mut world, reader, 10_000);
    assert!(!read.contains("\"gap\""), "{}", &read[..300]);
    for channel in ["state:a", "state:b"] {
        let last = read.lines().rfind(|line| line.starts_with(&format!("{{\"channel\":\"{channel}\""))).unwrap();
        assert!(last.contains("\"data\":\"002"), "{channel}");
    }
}

#[test]
fn a_poll_takes_as_much_as_a_page_and_goes_on_from_there() {
    let mut world = World::new();
    let channels = ["a", "b", "c"];
    for channel in channels {
        for number in 0..3 {
            world.publish(channel, &payload(number));
        }
    }
    let mut since = "start".to_owned();
    let mut got = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..20 {
        let answer = world.get(&format!("/channels?channel=a&channel=b&channel=c&since={since}"), "");
        assert!(answer.body.len() < 50_000, "{} bytes", answer.body.len());
        for item in answer.json()["messages"].as_array().unwrap() {
            let of = channels.iter().position(|channel| item["channel"] == *channel).unwrap();
            got[of].push(item["data"].as_str().unwrap()[..3].parse::<usize>().unwrap());
        }
        since = answer.json()["position"].as_str().unwrap().to_owned();
    }
    assert_eq!(got, [0, 1, 2].map(|_| vec![0, 1, 2]));
}

#[test]
fn a_gap_names_the_position_that_was_shown_wherever_it_could_be_read() {
    let mut world = World::new();
    world.publish("a", "1");
    for (shown, after) in [("xyzA:7", serde_json::json!("xyzA:7")), ("nonsense", serde_json::Value::Null)] {
        let messages = world.get("/channels/a", &format!("Last-Event-ID: {shown}\r\n")).json()["messages"].clone();
        assert_eq!(messages[0]["gap"]["after"], after, "{messages}");
        assert_eq!(messages[0]["gap"]["missed"], serde_json::Value::Null);
    }
}
