//! State channels: the value is what must arrive.

use super::Options;
use super::rig_tests::Rig;
use crate::hub::{Access, ChannelKind, Namespace};

fn options() -> Options {
    let mut options = Options::default();
    options.server.api_key = "k".to_owned();
    options.hub.namespaces = vec![Namespace {
        kind: ChannelKind::State,
        allow_subscribe: Access::Anyone,
        queue_bytes_max: 1000,
        ..Namespace::default()
    }];
    options
}

fn publish(rig: &mut Rig, data: &str, skip_history: bool) {
    let conn = rig.accept();
    let body = format!("{{\"channel\":\"c\",\"data\":\"{data}\",\"skip_history\":{skip_history}}}");
    let length = body.len();
    rig.send(conn, format!("POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: k\r\nContent-Length: {length}\r\n\r\n{body}"));
    assert!(rig.got(conn).starts_with("HTTP/1.1 200"));
}

#[test]
fn what_passes_by_never_takes_the_place_of_a_slow_readers_value() {
    let mut rig = Rig::new(options());
    let reader = rig.accept();
    rig.send(reader, "GET /channels/c?via=stream HTTP/1.1\r\nHost: h\r\n\r\n");
    rig.got(reader);
    rig.give_room(reader, 0);
    publish(&mut rig, "old", false);
    publish(&mut rig, "new", false);
    publish(&mut rig, &"passing".repeat(100), true);
    publish(&mut rig, &"passing".repeat(100), true);
    rig.give_room(reader, usize::MAX);
    let got = rig.got(reader);
    assert!(got.contains("\"data\":\"new\",\"state\":true"), "{got}");
    assert_eq!((got.contains("gap"), rig.closed(reader)), (false, None));
    publish(&mut rig, "newest", false);
    assert!(rig.got(reader).contains("newest"));
}

#[test]
fn what_passed_by_is_no_value_to_who_comes_later() {
    let mut rig = Rig::new(options());
    publish(&mut rig, "value", false);
    publish(&mut rig, "passing", true);
    let reader = rig.accept();
    rig.send(reader, "GET /channels/c HTTP/1.1\r\nHost: h\r\n\r\n");
    let got = rig.got(reader);
    assert!(got.contains("value") && !got.contains("passing"), "{got}");
}
