//! Fuzzes the readers of the launcher: for any input of a guest, a VMM or another process, readers do not panic and
//! keep their memory within bounds. `PROPTEST_CASES=100000` runs the long form.

#[path = "../../wire/tests/mutate/mod.rs"]
mod mutate;

use mutate::{lines, mutated};
use pepita_launcher::cli;
use pepita_launcher::image::{build, kernel};
use pepita_launcher::monitor::{Address, Agent, Heard, QmpMessage, Scanner};
use pepita_launcher::rundir::cid;
use pepita_launcher::rundir::console_log::Index;
use pepita_launcher::rundir::files::State;
use pepita_launcher::vm_config::VmConfig;
use pepita_wire::conversation::News;
use proptest::collection::vec;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::OnceCell;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

const TO_HOST: &str = include_str!("../../wire/tests/golden/1-to-host.ndjson");

const QMP: &str = r#"{"QMP": {"version": {"qemu": {"micro": 14, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}
{"return": {}}
{"error": {"class": "GenericError", "desc": "no"}}
{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}
{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}
{"event": "RESUME"}"#;

const FILES: &str = r#"{"name":"a","incarnation":7,"vmm":"qemu","program":"/q","accel":"tcg","kernel":"/k","root":{"disk":{"image":"/i","initrd":null}},"cpus":1,"memory_mb":128,"cid":3,"port":5000,"transport":"hybrid","backend":null,"command":[],"env":{"K":"V"},"labels":{},"hold":false,"ready_timeout_ms":1000,"cmdline_append":"","tsc_khz":null}
{"vmm":{"pid":1,"start":2,"boot_id":"b"},"backend":null,"daemon":null,"log_base":5,"status":{"name":"a","state":"running"}}"#;

fn heads() -> Vec<Vec<u8>> {
    let mut disk = vec![0; 0x43a];
    disk[0x438..].copy_from_slice(&[0x53, 0xef]);
    let mut bzimage = vec![0; 2048];
    bzimage[0x1f1] = 1;
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    bzimage[0x24c] = 64;
    vec![b"070701".repeat(19), disk, b"\x1f\x8b\x08".to_vec(), b"\x7fELF\x02\x01\x01".repeat(20), bzimage]
}

thread_local! {
    /// The socket that stands for the guest, for all inputs of a test.
    static GUEST: OnceCell<(tempfile::TempDir, UnixListener)> = const { OnceCell::new() };
}

/// Dials a "guest" that writes `said` and hangs up. Returns what the monitor's side receives.
fn converse(said: &[u8]) -> (Vec<Heard>, usize) {
    GUEST.with(|guest| {
        let (dir, listener) = guest.get_or_init(|| {
            let dir = tempfile::Builder::new().prefix("pf").tempdir_in("/tmp").expect("a directory");
            let listener = UnixListener::bind(dir.path().join("v.sock")).expect("bound");
            (dir, listener)
        });
        let address = Address::Hybrid { path: dir.path().join("v.sock"), port: 5000 };
        let mut agent = Agent::new(address, 7, None, "token".into());
        let now = Instant::now();
        agent.dial(now);
        let (mut stream, _) = listener.accept().expect("dialled");
        stream.set_nonblocking(true).expect("a socket");
        let (mut heard, mut rest, mut turns) = (Vec::new(), said, 0);
        // The loop ends when the monitor's side has hung up, or has read everything and the end of the stream.
        while agent.interest().is_some() && turns < 10_000 {
            turns += 1;
            if !rest.is_empty() {
                rest = &rest[stream.write(rest).unwrap_or(if turns > 1 { rest.len() } else { 0 })..];
            }
            if rest.is_empty() {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
            let ready = {
                let Some((fd, _)) = agent.interest() else { break };
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
                poll(&mut fds, Timespec::try_from(Duration::from_secs(5)).ok().as_ref()).is_ok_and(|n| n > 0)
            };
            assert!(ready, "neither input nor an end after {turns} turns");
            heard.extend(agent.ready(now));
        }
        (heard, turns)
    })
}

fn good_conversation() -> Vec<Vec<u8>> {
    let whole = [b"OK 1073741824\n".as_slice(), TO_HOST.as_bytes()].concat();
    let shorter = b"OK 7\n{\"hello\":{\"generation\":1,\"incarnation\":7}}\n".to_vec();
    vec![whole, shorter, b"OK 7\n".to_vec()]
}

#[test]
fn a_conversation_by_the_book_is_heard_whole() {
    let (heard, _) = converse(&good_conversation()[0]);
    let news = heard.iter().filter(|heard| matches!(heard, Heard::News(News::Event { .. }))).count();
    assert_eq!(news, 7, "{heard:?}");
    assert!(
        matches!(
            (heard.first(), heard.last()),
            (Some(Heard::News(News::Up { protocol_version: 1 })), Some(Heard::Down))
        ),
        "{heard:?}"
    );
}

proptest! {
    #[test]
    fn whatever_answers_a_dial_the_conversation_ends_and_nothing_is_heard_before_the_hello(said in mutated(good_conversation())) {
        let (heard, _) = converse(&said);
        if let Some(first) = heard.first() {
            prop_assert!(matches!(first, Heard::News(News::Up { .. })), "{:?}", first);
        }
    }

    #[test]
    fn no_line_of_a_vmm_breaks_the_monitor(line in mutated(lines(QMP))) {
        if let QmpMessage::Shutdown(reason) | QmpMessage::Refused(reason) = QmpMessage::parse(&line) {
            prop_assert!(reason.len() <= line.len());
        }
    }

    #[test]
    fn no_console_breaks_the_scanner(pieces in vec(mutated(notes()), 0..10)) {
        let (mut scanner, mut output) = (Scanner::new(), Vec::new());
        for piece in &pieces {
            prop_assert!(scanner.push(piece, &["another", ""], &mut output).is_empty());
        }
        prop_assert!(output.len() <= pieces.iter().map(Vec::len).sum());
        let kept = scanner.last_lines();
        prop_assert!(kept.len() <= 21 && kept.iter().all(|line| line.chars().count() <= 200));
    }

    #[test]
    fn no_file_of_a_run_directory_breaks_its_reader(bytes in mutated(lines(FILES))) {
        let _ = serde_json::from_slice::<VmConfig>(&bytes);
        let _ = serde_json::from_slice::<State>(&bytes);
        Index::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn an_index_has_as_many_pairs_as_good_lines(text in "([0-9]{1,25} [0-9]{1,25}\n|\\PC{0,20}\n){0,20}") {
        prop_assert!(Index::parse(&text).marks.len() <= text.lines().count());
    }

    #[test]
    fn no_beginning_of_a_file_breaks_what_recognises_it(head in mutated(heads())) {
        build::kind_of(&head);
        kernel::recognise(&head);
        if let Some(unpacked) = kernel::unpack(&head) {
            prop_assert!(unpacked.starts_with(b"\x7fELF"));
        }
    }

    #[test]
    fn an_environment_file_is_read_or_the_line_is_named(text in "(([A-Z]{0,3}=?\\PC{0,9}|#\\PC{0,5})\n){0,12}") {
        match cli::env_file(&text) {
            Ok(env) => prop_assert!(env.keys().all(|key| !key.is_empty() && !key.contains('='))),
            Err((line, _)) => prop_assert!((1..=text.lines().count()).contains(&line)),
        }
    }

    #[test]
    fn no_cid_is_reserved(text in "\\PC{0,12}|[0-9]{0,12}") {
        if let Ok(cid::Wanted::Fixed(cid)) = text.parse() {
            prop_assert!((3..u32::MAX).contains(&cid.get()));
        }
    }
}

fn notes() -> Vec<Vec<u8>> {
    use pepita_wire::console::{Note, encode};
    let exited = encode("secret", &Note::Exited(pepita_wire::Exit::code(0)));
    let long = format!("{}{}\n", pepita_wire::console::MARK, "x".repeat(5000));
    let panic = "[    1.2] Kernel panic - not syncing: sysrq triggered crash\n".to_owned();
    vec![exited.into_bytes(), encode("", &Note::Up).into_bytes(), long.into_bytes(), panic.into_bytes()]
}
