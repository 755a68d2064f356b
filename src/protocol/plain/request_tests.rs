use super::*;
use crate::base::{Epoch, StreamPosition};
use crate::hub::ChannelNameError;
use proptest::prelude::*;

const WAIT_MAX: Duration = Duration::from_secs(55);
const LIMITS: Limits = Limits { wait_max: WAIT_MAX, channels_max: CHANNELS_MAX };

fn parse(target: &str, headers: &[(&str, &'static str)]) -> Result<SubscribeRequest, RequestError> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let name = path.strip_prefix("/channels/");
    let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| Cow::Borrowed(*value));
    SubscribeRequest::parse(name, query, &header, LIMITS)
}

fn names(request: &SubscribeRequest) -> Vec<&str> {
    request.channels.iter().map(ChannelName::as_str).collect()
}

#[test]
fn both_forms_of_naming_add_up_and_duplicates_collapse() {
    let request = parse("/channels/a%2Fb%23?channel=x&channel=a%2fb%23&channel=c", &[]).unwrap();
    assert_eq!(names(&request), ["a/b#", "x", "c"]);
}

#[test]
fn bad_names_are_refused() {
    let name = |rule| RequestError::Name(NameError::Rule(rule));
    let many: String = (0..33).map(|at| format!("channel=c{at}&")).collect();
    for (target, error) in [
        ("/channels?x=y".to_owned(), RequestError::NoChannel),
        ("/channels/".to_owned(), name(ChannelNameError::Empty)),
        ("/channels/a/b".to_owned(), RequestError::Name(NameError::Slash)),
        ("/channels/%20".to_owned(), name(ChannelNameError::Character(b' '))),
        ("/channels/%E2%82%AC".to_owned(), name(ChannelNameError::Character(0xe2))),
        ("/channels/%2".to_owned(), RequestError::Name(NameError::Escape)),
        ("/channels/a?via=%ff".to_owned(), RequestError::Escape),
        (format!("/channels/{}", "x".repeat(256)), name(ChannelNameError::TooLong { bytes: 256 })),
        (format!("/channels?{many}"), RequestError::TooManyChannels { channels_max: 32 }),
    ] {
        assert_eq!(parse(&target, &[]).unwrap_err(), error, "{target}");
    }
}

#[test]
fn the_transport_is_upgrade_then_via_then_accept() {
    let poll = Transport::Poll { wait: Duration::ZERO };
    for (query, headers, expected) in [
        ("", &[("upgrade", "WebSocket")][..], Ok(Transport::WebSocket)),
        ("?via=sse", &[("upgrade", "websocket")], Ok(Transport::WebSocket)),
        ("?via=sse", &[], Ok(Transport::EventStream)),
        ("?via=stream", &[], Ok(Transport::NdJson)),
        ("?via=poll", &[("accept", "text/event-stream")], Ok(poll)),
        ("?via=ws", &[], Err(RequestError::NotUpgraded)),
        ("?via=tcp", &[], Err(RequestError::Via("tcp".to_owned()))),
        ("", &[], Ok(poll)),
        ("", &[("accept", "text/event-stream")], Ok(Transport::EventStream)),
        ("", &[("accept", "text/html, */*")], Ok(poll)),
        ("", &[("accept", "text/html")], Ok(poll)),
        ("", &[("accept", "application/json;q=0.5, application/x-ndjson;q=0.9, text/event-stream;q=0.1")], Ok(Transport::NdJson)),
        ("", &[("accept", "application/x-ndjson, text/event-stream")], Ok(Transport::NdJson)),
        ("", &[("accept", "text/event-stream;q=0")], Ok(poll)),
        ("?via=poll&wait=20", &[], Ok(Transport::Poll { wait: Duration::from_secs(20) })),
        ("?via=poll&wait=99999999999999999999", &[], Ok(Transport::Poll { wait: WAIT_MAX })),
        ("?via=poll&wait=1.5", &[], Err(RequestError::Wait)),
        ("?via=poll&wait=-1", &[], Err(RequestError::Wait)),
    ] {
        assert_eq!(
            parse(&format!("/channels/a{query}"), headers).map(|request| request.transport),
            expected,
            "{query} {headers:?}"
        );
    }
}

#[test]
fn raw_is_for_one_channel_on_a_live_transport() {
    for (target, expected) in [
        ("/channels/a?via=sse", Ok(Format::Raw)),
        ("/channels/a?via=sse&format=json", Ok(Format::Json)),
        ("/channels/a?via=sse&channel=b", Ok(Format::Json)),
        ("/channels/a?via=stream", Ok(Format::Json)),
        ("/channels/a?via=sse&channel=b&format=raw", Err(RequestError::FormatForTransport)),
        ("/channels/a?via=poll&format=raw", Err(RequestError::FormatForTransport)),
        ("/channels/a?via=stream&format=raw", Err(RequestError::FormatForTransport)),
        ("/channels/a?format=xml", Err(RequestError::Format("xml".to_owned()))),
    ] {
        assert_eq!(parse(target, &[]).map(|request| request.format), expected, "{target}");
    }
}

#[test]
fn the_last_event_id_wins_over_the_url_and_the_url_over_if_none_match() {
    let after = |offset| Start::After(StreamPosition { epoch: Epoch(1), offset });
    let (id, tag) = (("last-event-id", "00000000001:3"), ("if-none-match", "\"00000000001:5\""));
    let elsewhere = Token::parse("xyzA:3").unwrap().start(&ChannelName::parse("a").unwrap());
    for (query, headers, start, if_none_match) in [
        ("", &[][..], Start::Now, false),
        ("?since=00000000001:4", &[id, tag], after(3), false),
        ("?since=00000000001:4", &[tag], after(4), false),
        ("?since=start", &[], Start::Beginning, false),
        ("?since=now&history=3", &[tag], Start::Now, false),
        ("?history=3", &[tag], after(5), true),
        ("?history=3", &[], Start::Newest(3), false),
        ("", &[("if-none-match", "W/\"00000000001:5\"")], after(5), true),
        ("", &[("if-none-match", "\"other\", \"00000000001:5\"")], after(5), true),
        ("", &[("if-none-match", "\"other\"")], Start::Unreadable, true),
        ("", &[("last-event-id", "nonsense")], Start::Unreadable, false),
        ("", &[("last-event-id", "xyzA:3")], elsewhere, false),
        ("?since=xyzA:3", &[], elsewhere, false),
        ("?unknown=1", &[("last-event-id", "")], Start::Now, false),
    ] {
        let request = parse(&format!("/channels/a{query}"), headers).unwrap();
        assert_eq!((request.starts()[0].1, request.if_none_match), (start, if_none_match), "{query} {headers:?}");
    }
    for query in ["?since=nonsense", "?since=", "?since=00000000001:4&channel=b"] {
        assert_eq!(parse(&format!("/channels/a{query}"), &[]).unwrap_err(), RequestError::Since, "{query}");
    }
    assert_eq!(parse("/channels/a?history=x", &[]).unwrap_err(), RequestError::History);
}

#[test]
fn a_position_of_one_channel_says_nothing_about_several() {
    let request = parse("/channels/a?channel=b", &[("last-event-id", "00000000001:3")]).unwrap();
    assert!(request.starts().iter().all(|(_, start)| *start == Start::Unreadable));
}

#[test]
fn a_token_of_several_starts_each_where_it_was() {
    let position = StreamPosition { epoch: Epoch(1), offset: 9 };
    let channel = |name| ChannelName::parse(name).unwrap();
    let token = crate::hub::token::write(&[(channel("a"), Some(position)), (channel("b"), None)]);
    let request = parse(&format!("/channels?channel=b&channel=a&since={token}"), &[]).unwrap();
    assert_eq!(request.starts(), [(channel("b"), Start::Now), (channel("a"), Start::After(position))]);
}

proptest! {
    #[test]
    fn any_request_is_an_answer_not_a_panic(
        name in "[!-~]{1,9}|\\PC{0,30}",
        query in "((channel|via|wait|since|history|format|x)=[ -~]{0,9}&?){0,6}\\PC{0,9}",
        fields in prop::collection::vec(prop::option::of("\\PC{0,30}"), 4),
    ) {
        let known = ["accept", "last-event-id", "if-none-match", "upgrade"];
        let found = known.iter().zip(&fields).collect::<Vec<_>>();
        let header = |name: &str| found.iter().find(|(known, _)| **known == name).and_then(|(_, value)| value.as_deref().map(Cow::Borrowed));
        if let Ok(request) = SubscribeRequest::parse(Some(&name), Some(&query), &header, LIMITS) {
            prop_assert!((1..=CHANNELS_MAX).contains(&request.channels.len()));
            prop_assert_eq!(request.starts().len(), request.channels.len());
        }
    }

    #[test]
    fn any_accept_field_likes_something(accept in "((text/event-stream|application/x-ndjson|\\*/\\*|text/html)(; ?q=[0-9.]{1,4})?, ?){0,4}\\PC{0,9}") {
        let _ = preferred(&accept);
    }
}
