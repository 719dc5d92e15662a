//! Golden files of generation 1 of the conversation. All later versions must be able to read these bytes.

use pepita_wire::agent::{Dial, Exec, Health, Probe, Start, Stop};
use pepita_wire::network::Network;
use pepita_wire::probe::Check;
use pepita_wire::world::World;
use pepita_wire::{Ask, ErrorKind, Exit, GuestEvent, GuestPlace, Hello, Signal, ToGuest, ToHost, WireError};
use serde_json::json;
use std::collections::BTreeMap;

fn ask(id: u64, ask: Ask) -> ToGuest {
    let (method, params) = ask.into_parts();
    ToGuest::request(id, method, params)
}

fn to_guest() -> Vec<ToGuest> {
    vec![
        ToGuest::Hello(Hello {
            protocol_version: 1,
            version: "0.1.0".into(),
            incarnation: 7,
            token: Some("boot".into()),
            new_token: Some("session".into()),
            ..Hello::default()
        }),
        ask(1, Ask::Ping),
        ask(
            2,
            Ask::Start(Start {
                command: vec!["/usr/bin/api".into(), "--port".into(), "80".into()],
                env: BTreeMap::from([("RUST_LOG".into(), "info".into())]),
                ..Start::default()
            }),
        ),
        ask(3, Ask::Stop(Stop { signal: Signal::TERM, grace_ms: 30_000 })),
        ask(4, Ask::Signal(Signal::HUP)),
        ask(5, Ask::Status),
        ask(6, Ask::Exec(Exec { command: vec!["/bin/check".into()], timeout_ms: 2000, bulk: false })),
        ask(7, Ask::SetTime { unix_ms: 1_700_000_000_000 }),
        ask(8, Ask::Logs { follow: true }),
        ask(9, Ask::Watch { since: 4 }),
        ask(10, Ask::Ack { seq: 5 }),
        ask(11, Ask::PowerOff),
        ask(12, Ask::Dial(Dial { to: GuestPlace::Port(6379), wait_ms: 1000 })),
        ask(13, Ask::Accept),
        ask(14, Ask::Probe(Probe { check: Check::Tcp(6379), timeout_ms: 2000 })),
        ask(
            15,
            Ask::Probe(Probe {
                check: Check::Http("127.0.0.1:80/healthz".parse().expect("a place")),
                timeout_ms: 2000,
            }),
        ),
        ask(16, Ask::Usage),
        ask(17, Ask::FreeMemory),
        ask(18, Ask::Prepare(Start { command: vec!["/usr/bin/api".into()], ..Start::default() })),
    ]
}

fn to_host() -> Vec<ToHost> {
    let event = |seq, event| ToHost::Event { seq, event };
    vec![
        ToHost::Hello(Hello {
            protocol_version: 1,
            version: "0.1.0".into(),
            boot_id: "3f1c".into(),
            incarnation: 7,
            ..Hello::default()
        }),
        ToHost::Answer { id: 1, outcome: Ok(json!({})) },
        ToHost::Answer { id: 2, outcome: Ok(json!({"pid": 42})) },
        ToHost::Answer {
            id: 3,
            outcome: Err(WireError::new(ErrorKind::Unsupported, "unknown method \"fly\"")),
        },
        event(1, GuestEvent::Started { pid: 42 }),
        event(2, GuestEvent::Ready),
        event(
            3,
            GuestEvent::Health(Health { watchdog: true, status: Some("fine".into()), ..Health::default() }),
        ),
        event(4, GuestEvent::Memory { oom: true }),
        event(5, GuestEvent::Exited(Exit::code(3))),
        event(6, GuestEvent::Exited(Exit::GuestOom)),
        event(
            7,
            GuestEvent::Exited(Exit::NotExecutable {
                path: "/nope".into(),
                errno: 2,
                message: "No such file or directory".into(),
            }),
        ),
    ]
}

#[test]
fn generation_1_to_guest_is_frozen() {
    let golden = include_str!("golden/1-to-guest.ndjson");
    let written: Vec<u8> = to_guest().iter().flat_map(ToGuest::encode).collect();
    assert_eq!(String::from_utf8(written).expect("JSON is UTF-8"), golden);
    let read: Vec<_> = golden.lines().map(|l| ToGuest::decode(l.as_bytes()).expect(l)).collect();
    assert_eq!(read, to_guest());
}

#[test]
fn generation_1_to_host_is_frozen() {
    let golden = include_str!("golden/1-to-host.ndjson");
    let written: Vec<u8> = to_host().iter().flat_map(ToHost::encode).collect();
    assert_eq!(String::from_utf8(written).expect("JSON is UTF-8"), golden);
    let read: Vec<_> = golden.lines().map(|l| ToHost::decode(l.as_bytes()).expect(l)).collect();
    assert_eq!(read, to_host());
}

#[test]
fn every_request_survives_the_way_there() {
    for frame in to_guest() {
        let ToGuest::Request(request) = frame else { continue };
        let parsed = Ask::from_parts(&request.method, request.params.clone()).expect("known");
        let (method, params) = parsed.into_parts();
        assert_eq!((method, params), (request.method.as_str(), request.params));
    }
}

#[test]
fn a_start_in_a_world_has_a_method_that_an_older_agent_refuses() {
    let start = Start { name: Some("a".into()), ..Start::default() };
    let (method, params) = Ask::Start(start.clone()).into_parts();
    // An older agent knows this method, and leaves out the field.
    assert_eq!((method, &params["name"]), ("start", &json!("a")));
    let world = World { user: Some("redis".into()), ..World::default() };
    let start = Start { world: world.into(), ..start };
    let (method, params) = Ask::Start(start.clone()).into_parts();
    assert_eq!((method, &params["world"]), ("start_in_world", &json!({ "user": "redis" })));
    assert_eq!(Ask::from_parts(method, params), Ok(Ask::Start(start.clone())));
    let reach = vec!["db:5432".parse().expect("a place")];
    let (method, params) = Ask::Start(Start { reach, ..start.clone() }).into_parts();
    assert_eq!((method, &params["reach"]), ("start_reaching", &json!(["db:5432"])));
    assert_eq!(params["world"], json!({ "user": "redis" }));
    let Ok(Ask::Start(read)) = Ask::from_parts(method, params) else { panic!("a start") };
    assert_eq!(read.reach.len(), 1);
    let card = Network::User.card();
    let (method, params) = Ask::Start(Start { network: card.clone(), ..read }).into_parts();
    let shown =
        json!({ "address": "10.0.2.15", "prefix": 24, "gateway": "10.0.2.2", "name_servers": ["10.0.2.3"] });
    assert_eq!(
        (method, &params["network"], &params["reach"]),
        ("start_networked", &shown, &json!(["db:5432"]))
    );
    let Ok(Ask::Start(read)) = Ask::from_parts(method, params) else { panic!("a start") };
    assert_eq!(read.network, card);
}

#[test]
fn unknown_things_are_no_reason_to_hang_up() {
    let later = br#"{"id":9,"method":"fly","params":{"up":1},"later":true}"#;
    let Ok(ToGuest::Request(request)) = ToGuest::decode(later) else { panic!("a request") };
    let refusal = Ask::from_parts(&request.method, request.params).expect_err("unknown");
    assert_eq!(refusal.kind, ErrorKind::Unsupported);
    let event = ToHost::decode(br#"{"seq":3,"event":"enlightened","data":{"x":1}}"#).expect("an event");
    assert_eq!(event, ToHost::Event { seq: 3, event: GuestEvent::Unknown("enlightened".into()) });
}
