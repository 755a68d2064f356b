use super::*;
use proptest::prelude::*;

fn options() -> Options {
    Options { head_bytes_max: 400, headers_max: 6, ..Options::default() }
}

/// Feeds the wire in pieces; the head and how many bytes it took.
fn read(wire: &[u8], step: usize) -> Result<Option<(Head, usize)>, HttpError> {
    let mut reader = HeadReader::default();
    let mut used = 0;
    for piece in wire.chunks(step) {
        match reader.feed(piece, &options())? {
            Some((head, consumed)) => return Ok(Some((head, used + consumed))),
            None => used += piece.len(),
        }
    }
    Ok(None)
}

#[track_caller]
fn accept(wire: &str) -> Head {
    let (whole, used) = read(wire.as_bytes(), wire.len()).unwrap().unwrap();
    for step in 1..=wire.len() {
        let (head, taken) = read(wire.as_bytes(), step).unwrap().unwrap();
        let facts = |head: &Head| {
            (head.path().to_owned(), head.framing(), head.keep_alive(), head.host().to_owned(), head.fields().count())
        };
        assert_eq!((facts(&head), taken), (facts(&whole), used), "split every {step} bytes");
    }
    whole
}

#[track_caller]
fn refuse(wire: &str, error: HttpError) {
    for step in [1, 7, wire.len()] {
        assert_eq!(read(wire.as_bytes(), step).err(), Some(error), "{wire:?} split every {step} bytes");
    }
}

#[test]
fn a_request_is_read_whole() {
    let head = accept(
        "\r\nPOST /a/../channels/x%2fy?via=sse&x=%20 HTTP/1.1\r\nHost: h:80\r\nContent-Length: 5\r\nX: 1\r\nx:2\r\n\r\nhello",
    );
    assert_eq!((head.method(), head.path(), head.query()), (Method::Post, "/channels/x%2Fy", Some("via=sse&x=%20")));
    assert_eq!((head.framing(), head.host(), head.keep_alive()), (Framing::Length(5), "h:80", true));
    assert_eq!(head.header_list("X").as_deref(), Some("1, 2"));
}

#[test]
fn an_absolute_target_names_the_host() {
    let head = accept("GET http://other:81/p?q HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((head.path(), head.query(), head.host()), ("/p", Some("q"), "other:81"));
    assert_eq!(accept("GET http://other HTTP/1.1\r\nHost: h\r\n\r\n").path(), "/");
    assert_eq!(accept("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").path(), "*");
}

#[test]
fn keep_alive_follows_version_and_connection() {
    for (wire, keep) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        assert_eq!(accept(wire).keep_alive(), keep, "{wire}");
    }
}

#[test]
fn what_the_rfc_calls_an_error_is_refused() {
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{rest}\r\n\r\n");
    let cases = [
        (get("Content-Length: 1\r\nTransfer-Encoding: chunked"), HttpError::TwoFramings),
        (get("Content-Length: 1\r\nContent-Length: 1"), HttpError::ContentLength),
        (get("Content-Length: 1, 1"), HttpError::ContentLength),
        (get("Content-Length: +1"), HttpError::ContentLength),
        (get("Content-Length: 0x1"), HttpError::ContentLength),
        (get("Content-Length:"), HttpError::ContentLength),
        (get("Content-Length: 99999999999999999999"), HttpError::ContentLength),
        (get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), HttpError::TransferEncoding),
        (get("Transfer-Encoding: gzip, chunked"), HttpError::TransferEncoding),
        (get("Transfer-Encoding: xchunked"), HttpError::TransferEncoding),
        (get("Transfer-Encoding: identity"), HttpError::UnknownCoding),
        (get("Transfer-Encoding:"), HttpError::UnknownCoding),
        (get("Transfer-Encoding : chunked"), HttpError::Syntax),
        (get("X: a\r\n folded"), HttpError::Syntax),
        (get("X: a\nY: b"), HttpError::Syntax),
        (get("X: a\rb"), HttpError::Syntax),
        (get("X: a\0b"), HttpError::Syntax),
        (get("X y: a"), HttpError::Syntax),
        (get(": a"), HttpError::Syntax),
        (get("Host: h"), HttpError::HostRepeated),
        (get("Expect: 200-ok"), HttpError::Expectation),
        (get("A:1\r\nB:1\r\nC:1\r\nD:1\r\nE:1\r\nF:1"), HttpError::TooManyHeaders { headers_max: 6 }),
        ("GET / HTTP/1.1\r\nX: y\r\n\r\n".to_owned(), HttpError::HostMissing),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), HttpError::Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), HttpError::Host),
        ("GET / HTTP/1.1\r\nHost: a:b:c\r\n\r\n".to_owned(), HttpError::Host),
        ("GET / HTTP/1.1\r\nHost: a:80x\r\n\r\n".to_owned(), HttpError::Host),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n".to_owned(), HttpError::Host),
        ("GET / HTTP/1.1\r\nHost: [a]:1\r\n\r\n".to_owned(), HttpError::Host),
        ("GET http://a:b:c/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), HttpError::Host),
        (get("Expect: 100-continue\r\nExpect: 100-continue"), HttpError::Expectation),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(), HttpError::Version),
        ("GET /../x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), HttpError::Target),
        ("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), HttpError::Target),
        ("GET x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), HttpError::Target),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), HttpError::Target),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), HttpError::TransferEncoding),
        ("\x16\x03\x01\x02\0\x01\0\x01".to_owned(), HttpError::Syntax),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(500)), HttpError::TargetTooLong { bytes_max: 400 }),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(500)), HttpError::HeadTooLarge { bytes_max: 400 }),
    ];
    for (wire, error) in cases {
        refuse(&wire, error);
    }
}

#[test]
fn empty_lines_before_a_request_are_few_however_they_come() {
    let after = |lines: usize| format!("{}GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n".repeat(lines));
    assert_eq!(accept(&after(4)).path(), "/");
    refuse(&after(5), HttpError::Syntax);
}

#[test]
fn a_line_that_ends_wrong_is_refused_when_it_ends() {
    for wire in ["GET / HTTP/1.1\nHost", "\nGET /", "GET / HTTP/1.1\r\nHost: h\rX", "GET / HTTP/1.1\r\nHost: h\r\n folded\r\n"] {
        refuse(wire, HttpError::Syntax);
    }
}

#[test]
fn a_continuation_is_expected_of_http11_only() {
    assert!(accept("PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\n\r\n").expects_continue());
    assert!(!accept("PUT / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects_continue());
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_not_a_panic(wire: Vec<u8>, step in 1usize..9) {
        let _ = read(&wire, step);
    }

    #[test]
    fn nearly_a_request_is_an_answer_not_a_panic(target in "[ -~]{0,20}", name in "[ -~]{0,9}", value in "\\PC{0,9}") {
        let _ = read(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{name}: {value}\r\n\r\n").as_bytes(), 5);
    }
}

#[test]
fn values_may_be_in_any_encoding_and_nothing_else_may() {
    let read = |wire: &[u8]| HeadReader::default().feed(wire, &Options::default()).map(|head| head.unwrap().0);
    let head = read(b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a=\xe9\r\nX: \xc3\xa9\r\n\r\n").unwrap();
    assert!(!head.is_text());
    assert_eq!((head.header("cookie"), head.header("x")), (Some("a=?"), Some("\u{e9}")));
    let raw: Vec<_> = head.raw_fields().collect();
    assert_eq!(raw, [("Host", b"h".as_slice()), ("Cookie", b"a=\xe9"), ("X", b"\xc3\xa9")]);
    for wire in [
        b"GET /\xe9 HTTP/1.1\r\nHost: h\r\n\r\n".as_slice(),
        b"GET / HTTP/1.1\r\nHost: h\xe9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX\xe9: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\xe9\r\n\r\n",
    ] {
        assert!(read(wire).is_err(), "{}", String::from_utf8_lossy(wire));
    }
    for host in ["h", "h:", "h:80", "[::1]", "[::1]:80", "[v1.x]", "a_b.example"] {
        assert!(read(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).is_ok(), "{host}");
    }
}
