//! Event streams of several channels: runs that are everybody's, positions that are their own.

use super::harness::{World, post};
use crate::base::{Blob, ConnId};
use crate::hub::token::Token;
use crate::hub::{ChannelName, Start};
use crate::shard::Output;
use crate::transport::event_stream::tests::read;

fn start(token: &str, channel: &str) -> Start {
    Token::parse(token).unwrap().start(&ChannelName::parse(channel).unwrap())
}

#[test]
fn no_position_is_told_before_every_home_has_answered() {
    for (asked, headers) in
        [("since=start", ""), ("history=5", ""), ("", "Last-Event-ID: zzzz:1\r\n"), ("", "Last-Event-ID: nonsense\r\n")]
    {
        let mut world = World::of(2, |_| {});
        let (here, elsewhere) = (world.channel_at(0), world.channel_at(1));
        world.hold_mail(1);
        world.publish(&here, "1");
        let events = world.events(&format!("/channels?channel={here}&channel={elsewhere}&{asked}"), headers);
        world.publish(&here, "2");
        let before = world.read(events);
        assert!(before.contains("\"data\":\"2\"") && !before.contains("id: "), "{asked}: {before}");

        world.deliver_mail();
        let told = world.read(events);
        let id = told.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id");
        for channel in [&here, &elsewhere] {
            assert!(matches!(start(id, channel), Start::After(_)), "{asked}: {channel} is left out of {id}");
        }
    }
}

/// Cut before its first position, a reader comes back as a new one: where its URL begins, which is now if that says nothing.
#[test]
fn a_stream_that_was_cut_before_its_first_position_begins_where_its_url_says() {
    for (begins, expected) in [("", &["3"][..]), ("&history=5", &["1", "2", "3"][..]), ("&since=start", &["1", "2", "3"][..])] {
        let mut world = World::of(2, |_| {});
        let (here, elsewhere) = (world.channel_at(0), world.channel_at(1));
        let url = format!("/channels?channel={here}&channel={elsewhere}{begins}");
        world.hold_mail(1);
        let events = world.events(&url, "");
        world.publish(&here, "1");
        let before = world.read(events);
        assert!(before.contains("\"data\":\"1\"") && !before.contains("id: "), "{begins}: {before}");
        world.reset(events);
        world.publish(&here, "2");
        world.deliver_mail();

        let again = world.events(&url, "");
        world.publish(&here, "3");
        let told = world.read(again);
        let data: Vec<_> = told.split("\"data\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(data, expected, "{begins}: {told}");
        assert!(!told.contains("event: gap") && told.contains("id: "), "{begins}: {told}");
    }
}

/// The frames of the sends that follow from a publication.
fn sends(world: &mut World, channel: &str, body: &str) -> Vec<(ConnId, Vec<Blob>)> {
    let publisher = world.connect();
    world.receive(publisher, post(&format!("/channels/{channel}"), "", body));
    world.shards[0].fan_out(1000, world.now);
    world.shards[0].flush();
    let mut sends = Vec::new();
    while let Some(output) = world.shards[0].poll_output() {
        match output {
            Output::Send { conn, frames, .. } if conn != publisher => {
                sends.push((conn, frames.as_slice().iter().map(|frame| frame.blob.clone()).collect()));
            }
            _ => {}
        }
    }
    sends
}

#[test]
fn a_run_is_shared_and_the_position_behind_it_is_not() {
    let mut world = World::new();
    for other in ["b", "c"] {
        world.events(&format!("/channels?channel=a&channel={other}"), "");
    }
    world.publish("b", "before");
    let sends = sends(&mut world, "a", "to both");
    let [(_, first), (_, second)] = sends.as_slice() else { panic!("{sends:?}") };
    assert_eq!((first.len(), second.len()), (2, 2), "the run and the position");
    assert!(first[0].same(&second[0]));
    let text = String::from_utf8(first[0].to_vec()).unwrap();
    assert!(text.contains("to both") && !text.contains("id: "), "{text}");
    assert_ne!(first[1], second[1]);
}

#[test]
fn one_position_covers_all_that_leaves_together() {
    let mut world = World::new();
    let events = world.events("/channels?channel=a&channel=b", "");
    world.read(events);
    world.give_room(events, 1);
    for body in ["1", "2", "3"] {
        world.publish("a", body);
        world.publish("b", body);
    }
    world.unstall(events);
    let told = world.read(events);
    assert_eq!(told.matches("data: ").count(), 6);
    let ids: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert!(ids.len() <= 2, "the begun send's, and the last: {told}");
    for channel in ["a", "b"] {
        assert!(matches!(start(ids[ids.len() - 1], channel), Start::After(position) if position.offset == 3));
    }
}

/// Cut anywhere, a reader that comes back with its last position is told everything that it has not read.
#[test]
fn a_position_never_runs_ahead_of_what_was_read() {
    let mut world = World::new();
    let events = world.events("/channels?channel=a&channel=b", "");
    for step in 0..20 {
        world.give_room(events, [1, 40, 300][step % 3]);
        world.publish(["a", "b"][step % 2], &step.to_string());
    }
    world.unstall(events);
    let told = world.read(events);
    for end in 0..told.len() {
        let seen = &told[..end];
        let whole = &seen[..seen.rfind('\n').map_or(0, |end| end + 1)];
        let Some(id) = whole.lines().filter_map(|line| line.strip_prefix("id: ")).next_back() else { continue };
        for channel in ["a", "b"] {
            let items = read(seen).into_iter().filter(|(_, _, data)| data.starts_with(&format!("{{\"channel\":\"{channel}\"")));
            let Start::After(position) = start(id, channel) else { panic!("{id}") };
            assert!(position.offset <= items.count() as u64, "{seen}");
        }
    }
}
