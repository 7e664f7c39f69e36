use proptest::prelude::*;

use super::*;
use crate::error::Side::{Client, Server};

type Turn = (Side, &'static [u8]);

fn all() -> StartTlsSet {
    StartTls::ALL.into_iter().collect()
}

const GREETING: &[u8] =
    b"\x2d\0\0\0\x0a8.0.1\0\x01\0\0\0saltsalt\0\xff\xff\x08\x02\0\xff\xc1\x15\0\0\0\0\0\0\0\0\0\0pepper\0";
const GREETING_WITHOUT_TLS: &[u8] =
    b"\x2d\0\0\0\x0a8.0.1\0\x01\0\0\0saltsalt\0\xff\xf7\x08\x02\0\xff\xc1\x15\0\0\0\0\0\0\0\0\0\0pepper\0";
const SSL_REQUEST: &[u8] =
    b"\x20\0\0\x01\x85\xae\xff\x19\0\0\0\x01\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const LDAP_REQUEST: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
const LDAP_SUCCESS: &[u8] = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\0\x04\0\x04\0";
const LDAP_REFUSED: &[u8] = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\0\x04\0";
const PG_SSL: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const PG_GSS: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

/// Conversations at whose end both agree on TLS.
const AGREE: &[(StartTls, &[Turn])] = &[
    (
        StartTls::Smtp,
        &[
            (Server, b"220-mail.example\r\n220 ready\r\n"),
            (Client, b"EHLO me\r\n"),
            (
                Server,
                b"250-mail.example\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
            ),
            (Client, b"NOOP\r\nstarttls\r\n"),
            (Server, b"250 ok\r\n220 go\r\n"),
        ],
    ),
    (
        StartTls::Smtp,
        &[
            (Client, b"EHLO early\r\n"),
            (Server, b"220 ready\r\n250 STARTTLS\r\n"),
            (Client, b"STARTTLS\r\n"),
            (Server, b"454 not now\r\n"),
            (Client, b"STARTTLS\r\n"),
            (Server, b"220 go\r\n"),
        ],
    ),
    (
        StartTls::Imap,
        &[
            (Server, b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n"),
            (Client, b"a CAPABILITY\r\n"),
            (Server, b"* CAPABILITY IMAP4rev1 STARTTLS\r\na OK done\r\n"),
            (Client, b"b StartTLS\r\n"),
            (Server, b"* a word\r\nb OK go\r\n"),
        ],
    ),
    (
        StartTls::Pop3,
        &[
            (Server, b"+OK ready\r\n"),
            (Client, b"CAPA\r\nSTLS\r\n"),
            (
                Server,
                b"+OK\r\nSTLS\r\n+OK is a capability\r\n.\r\n+OK go\r\n",
            ),
        ],
    ),
    (
        StartTls::Ldap,
        &[
            (
                Client,
                b"\x30\x0c\x02\x01\x07\x60\x07\x02\x01\x03\x04\0\x80\0",
            ),
            (
                Server,
                b"\x30\x84\0\0\0\x10\x02\x01\x07\x61\x84\0\0\0\x07\x0a\x01\0\x04\0\x04\0",
            ),
            (Client, LDAP_REQUEST),
            (Server, LDAP_SUCCESS),
        ],
    ),
    (
        StartTls::Postgres,
        &[
            (Client, PG_GSS),
            (Server, b"N"),
            (Client, PG_SSL),
            (Server, b"S"),
        ],
    ),
    (
        StartTls::MySql,
        &[(Server, GREETING), (Client, SSL_REQUEST)],
    ),
];

/// Conversations that stay in clear.
const STAY: &[&[Turn]] = &[
    &[
        (Server, b"220 ready\r\n"),
        (Client, b"EHLO me\r\n"),
        (Server, b"250-mail\r\n250-STARTTLS\r\n250 8BITMIME\r\n"),
        (Client, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"),
    ],
    &[(Server, b"* PREAUTH welcome\r\n")],
    &[(Server, b"* OK hi\r\n"), (Client, b"a LOGIN {3}\r\n")],
    &[(Server, b"+OK hi\r\n"), (Client, b"USER me\r\n")],
    &[(Server, GREETING_WITHOUT_TLS)],
    &[
        (Server, GREETING),
        (Client, b"\x55\0\0\x01\x85\xa6\xff\x19"),
    ],
    &[
        (Client, PG_SSL),
        (Server, b"N"),
        (Client, b"\0\0\0\x29\0\x03\0\0user"),
    ],
    &[(Client, PG_SSL), (Server, b"E")],
    &[(Client, PG_GSS), (Server, b"G")],
    &[(Server, b"SSH-2.0-OpenSSH_9.9\r\n")],
    &[(Client, b"\x30\x05\x04\x03abc"), (Server, b"hello")],
];

/// Bytes where none may be.
const AHEAD: &[(Refusal, &[Turn])] = &[
    (
        Refusal::ClientAhead,
        &[
            (Server, b"220 ready\r\n"),
            (Client, b"STARTTLS\r\nRSET\r\n"),
        ],
    ),
    (
        Refusal::ClientAhead,
        &[
            (Server, b"220 ready\r\n"),
            (Client, b"STARTTLS\n"),
            (Client, b"\x16"),
        ],
    ),
    (
        Refusal::ServerAhead,
        &[
            (Server, b"220 ready\r\n"),
            (Client, b"STARTTLS\r\n"),
            (Server, b"220 go\r\n250 evil\r\n"),
        ],
    ),
    (
        Refusal::ClientAhead,
        &[
            (Server, b"* OK hi\r\n"),
            (Client, b"a STARTTLS\r\nb LOGIN me secret\r\n"),
        ],
    ),
    (
        Refusal::ServerAhead,
        &[
            (Server, b"* OK hi\r\n"),
            (Client, b"a STARTTLS\r\n"),
            (Server, b"a OK go\r\n* PREAUTH evil\r\n"),
        ],
    ),
    (
        Refusal::ClientAhead,
        &[(Server, b"+OK hi\r\n"), (Client, b"STLS\r\nUSER evil\r\n")],
    ),
    (
        Refusal::ClientAhead,
        &[(Client, b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x29")],
    ),
    (
        Refusal::ServerAhead,
        &[(Client, PG_SSL), (Server, b"SE\0\0\0\x05\0")],
    ),
    (
        Refusal::ClientAhead,
        &[(Client, LDAP_REQUEST), (Client, b"\x30")],
    ),
];

fn run(watch: &mut Watch, turns: &[Turn]) -> Verdict {
    let mut last = Verdict::Forward;
    for (from, bytes) in turns {
        assert_eq!(last, Verdict::Forward, "more than {turns:?} needed");
        last = watch.feed(*from, bytes);
    }
    last
}

#[test]
fn both_ends_agreeing_is_seen_in_every_protocol() {
    for (protocol, turns) in AGREE {
        let mut watch = Watch::new(all());
        let clear = turns.last().unwrap().1.len();
        assert_eq!(
            run(&mut watch, turns),
            Verdict::Tls { clear },
            "{protocol:?}"
        );
        assert_eq!(watch.protocol(), Some(*protocol));
        // Nothing is followed that was not asked for.
        let others = StartTls::ALL.into_iter().filter(|one| one != protocol);
        let mut watch = Watch::new(others.collect());
        for (from, bytes) in *turns {
            assert!(!matches!(watch.feed(*from, bytes), Verdict::Tls { .. }));
        }
    }
}

#[test]
fn the_clients_hello_may_stand_behind_a_mysql_request() {
    let mut watch = Watch::new(all());
    watch.feed(Server, GREETING);
    let both = [SSL_REQUEST, b"\x16\x03\x01"].concat();
    assert_eq!(watch.feed(Client, &both), Verdict::Tls { clear: 36 });
}

#[test]
fn what_stays_in_clear_is_no_longer_looked_at() {
    for turns in STAY {
        let mut watch = Watch::new(all());
        assert_eq!(run(&mut watch, turns), Verdict::Clear, "{turns:?}");
        assert_eq!(watch.feed(Client, b"STARTTLS\r\n"), Verdict::Clear);
    }
}

#[test]
fn a_server_that_refuses_tls_is_followed_on() {
    let mut watch = Watch::new(all());
    let turns: &[Turn] = &[(Client, LDAP_REQUEST), (Server, LDAP_REFUSED)];
    assert_eq!(run(&mut watch, turns), Verdict::Forward);
    let turns: &[Turn] = &[(Client, LDAP_REQUEST), (Server, LDAP_SUCCESS)];
    assert!(matches!(run(&mut watch, turns), Verdict::Tls { .. }));
}

#[test]
fn commands_injected_before_tls_are_refused_on_either_side() {
    for (refusal, turns) in AHEAD {
        let mut watch = Watch::new(all());
        assert_eq!(
            run(&mut watch, turns),
            Verdict::Refuse(*refusal),
            "{turns:?}"
        );
    }
}

#[test]
fn lines_and_commands_without_end_end_the_watch() {
    let mut watch = Watch::new(all());
    watch.feed(Server, b"220 ready\r\n");
    assert_eq!(watch.feed(Client, &[b'a'; 2000]), Verdict::Clear);
    let mut watch = Watch::new(all());
    watch.feed(Server, b"220 ready\r\n");
    assert_eq!(watch.feed(Client, &b"NOOP\r\n".repeat(100)), Verdict::Clear);
}

#[test]
fn clients_that_speak_first_are_told_by_their_first_bytes() {
    for (bytes, expected) in [
        (PG_SSL, ClientFirst::Is(StartTls::Postgres)),
        (PG_GSS, ClientFirst::Is(StartTls::Postgres)),
        (&PG_SSL[..7], ClientFirst::NeedMore),
        (LDAP_REQUEST, ClientFirst::Is(StartTls::Ldap)),
        (b"\x30\x84\0\0\0\x1d\x02", ClientFirst::Is(StartTls::Ldap)),
        (b"\x30\x84", ClientFirst::NeedMore),
        (b"", ClientFirst::NeedMore),
        (b"0123", ClientFirst::No),
        (b"EHLO me", ClientFirst::No),
    ] {
        assert_eq!(sniff_client(bytes, all()), expected, "{bytes:?}");
        let none = StartTlsSet::default();
        assert_eq!(sniff_client(bytes, none), ClientFirst::No);
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_answer(cuts in prop::collection::vec(1usize..40, 1..60)) {
        let agree = AGREE.iter().map(|(_, turns)| *turns);
        let ahead = AHEAD.iter().map(|(_, turns)| *turns);
        let mut cuts = cuts.iter().cycle();
        for turns in agree.chain(STAY.iter().copied()) {
            let whole = run(&mut Watch::new(all()), turns);
            let mut watch = Watch::new(all());
            let mut last = Verdict::Forward;
            for (from, mut bytes) in turns.iter().copied() {
                while !bytes.is_empty() {
                    let (now, later) = bytes.split_at((*cuts.next().unwrap()).min(bytes.len()));
                    last = watch.feed(from, now);
                    bytes = later;
                }
            }
            prop_assert_eq!(
                std::mem::discriminant(&last), std::mem::discriminant(&whole), "{:?}", turns
            );
        }
        // What a server says ahead is refused where it comes with the answer; later, it is no TLS.
        for turns in ahead {
            let mut watch = Watch::new(all());
            let mut refused = false;
            for (from, mut bytes) in turns.iter().copied() {
                while !bytes.is_empty() && !refused {
                    let (now, later) = bytes.split_at((*cuts.next().unwrap()).min(bytes.len()));
                    refused = !matches!(watch.feed(from, now), Verdict::Forward);
                    bytes = later;
                }
            }
            prop_assert!(refused);
        }
    }

    #[test]
    fn no_bytes_break_the_watch(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzzing::conversation(&bytes);
    }
}
