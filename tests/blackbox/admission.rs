//! Everybody at once: a server that lets in few, and clients that do as they are told.

use std::time::{Duration, Instant};

use crate::skip;
use crate::support::{Client, Server, wait_for};

const CLIENTS: usize = 2000;
/// Per worker and second; there are two workers.
const PER_SECOND: usize = 200;

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// How a client subscribes.
#[derive(Clone, Copy)]
enum Way {
    WebSocket,
    EventStream,
    Lines,
    Poll,
}

impl Way {
    const ALL: [Self; 4] = [Self::WebSocket, Self::EventStream, Self::Lines, Self::Poll];

    fn request(self) -> String {
        let (query, headers) = match self {
            Self::WebSocket => ("", UPGRADE),
            Self::EventStream => ("?via=sse", ""),
            Self::Lines => ("?via=stream", ""),
            Self::Poll => ("", ""),
        };
        format!("GET /channels/news{query} HTTP/1.1\r\nHost: h\r\n{headers}\r\n")
    }

    /// What the client is told: nothing if it has come in, else when it is to come back.
    fn hear(self, client: &mut Client) -> Option<Duration> {
        let (said, before, behind) = match self {
            Self::WebSocket => {
                let said = client.read_until_one_of(&["\"subscribed\"", " ms"]);
                assert!(said.starts_with("HTTP/1.1 101 "), "{said}");
                (said, "overload, retry in ", " ms")
            }
            Self::EventStream => {
                let said = client.read_until_one_of(&["id: ", "event: end\n"]);
                assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
                let turned_away = said.ends_with("event: end\n");
                (if turned_away { said } else { String::new() }, "retry: ", "\n")
            }
            Self::Lines => {
                let said = client.read_until_one_of(&["\"subscribed\"", "\"end\":", "}}"]);
                let said = if said.ends_with("\"end\":") { said + &client.read_until("}}") } else { said };
                assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
                (said, "\"retry_ms\":", "}")
            }
            Self::Poll => {
                let answer = client.answer();
                if answer.status == 503 {
                    assert_eq!(answer.json()["temporary"], true, "{}", answer.body);
                    let seconds = answer.header("Retry-After").and_then(|seconds| seconds.parse().ok());
                    return Some(Duration::from_secs(seconds.expect("a delay")));
                }
                assert_eq!(answer.status, 200, "{}", answer.body);
                return None;
            }
        };
        let (_, rest) = said.split_once(before)?;
        let millis = rest.split_once(behind)?.0.parse();
        Some(Duration::from_millis(millis.unwrap_or_else(|error| panic!("{error}: {said}"))))
    }
}

/// All of them connect and ask before anybody reads; those who were turned away come back when they were told.
fn come_in(server: &Server, clients: usize) -> (Vec<Client>, usize) {
    let mut due: Vec<(Instant, Way)> = (0..clients).map(|number| (Instant::now(), Way::ALL[number % 4])).collect();
    let (mut here, mut tries) = (Vec::new(), 0);
    while !due.is_empty() {
        let first = due.iter().map(|(at, _)| *at).min();
        wait_for("its time", || first.is_none_or(|first| first <= Instant::now()).then_some(()));
        let now = Instant::now();
        let (coming, later): (Vec<_>, Vec<_>) = due.into_iter().partition(|(at, _)| *at <= now);
        due = later;
        tries += coming.len();
        let asking: Vec<(Way, Client)> = coming
            .into_iter()
            .map(|(_, way)| {
                let mut client = server.connect();
                client.send(&way.request());
                (way, client)
            })
            .collect();
        for (way, mut client) in asking {
            match way.hear(&mut client) {
                None => here.push(client),
                Some(delay) => due.push((Instant::now() + delay, way)),
            }
        }
    }
    (here, tries)
}

#[test]
fn two_thousand_at_once_come_in_by_obeying() {
    if skip::without("uring") {
        return;
    }
    let limit = PER_SECOND.to_string();
    let settings = [("RINGMAIN_SERVER__HANDSHAKES_PER_SECOND_MAX", limit.as_str()), ("RINGMAIN_STREAM__RETRY", "200ms,500ms")];
    let server = Server::start(&settings);
    let mut early = server.connect();
    early.send(&Way::EventStream.request());
    early.read_until("id: ");
    let begin = Instant::now();
    let server = &server;
    let (here, tries) = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..4).map(|_| scope.spawn(|| come_in(server, CLIENTS / 4))).collect();
        // Who was here before notices nothing.
        for number in 0..20 {
            server.publish("news", &format!("number {number}"));
            early.read_until(&format!("data: number {number}\n"));
        }
        let parts = parts.into_iter().map(|part| part.join().expect("all come in"));
        parts.fold((Vec::new(), 0), |(mut here, tries), (more, tried)| {
            here.extend(more);
            (here, tries + tried)
        })
    });
    assert_eq!(here.len(), CLIENTS);
    let staying = CLIENTS / 4;
    for (kind, count) in [("ws", staying), ("sse", staying + 1), ("stream", staying)] {
        assert_eq!(server.metric_sum(&format!("ringmain_connections{{transport=\"{kind}\",protocol=\"plain\"}}")), count as f64);
    }
    let refused = server.metric("ringmain_connections_refused_total{reason=\"overload\"}");
    assert_eq!(refused, Some((tries - CLIENTS) as u64), "each of them was told, and nobody else");
    assert!(tries > CLIENTS && tries < CLIENTS * 3, "{tries} tries");
    let needed = Duration::from_secs((CLIENTS / (2 * PER_SECOND)) as u64);
    assert!(begin.elapsed() < needed * 4, "{CLIENTS} clients took {:?}", begin.elapsed());
}
