//! What the agent reads in a guest: of its daemon, of its image and of the kernel's command line. The agent is a program and no
//! library, so that its files are read here.

use super::{choice, pieces};
use boot::{Boot, Image};

#[allow(dead_code, unreachable_pub)]
#[path = "../../../crates/guest/src/probe/answer.rs"]
mod answer;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../crates/guest/src/boot.rs"]
mod boot;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../crates/guest/src/notify/datagram.rs"]
mod datagram;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../crates/guest/src/tail.rs"]
mod tail;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../crates/guest/src/users.rs"]
mod users;

/// Reads a datagram of a daemon (sd_notify(3)).
pub(super) fn notify(bytes: &[u8]) {
    let datagram = datagram::Datagram::parse(bytes);
    assert!(datagram.main_pid != Some(0));
    assert!(datagram.health.status.is_none_or(|status| status.len() <= 256));
}

/// Reads the answer to a probe over HTTP. However it comes, it says the same.
pub(super) fn http(input: &[u8]) {
    let (mut cut, mut whole) = (answer::Answer::default(), answer::Answer::default());
    for piece in pieces(input) {
        cut.push(piece);
        let _ = cut.head();
    }
    assert!(whole.push(choice(input).1) <= 16 * 1024);
    assert_eq!((cut.head(), cut.in_words()), (whole.head(), whole.in_words()));
    assert!(whole.in_words().chars().count() <= 8 * 1024);
    if let answer::Head::Status { line, .. } = whole.head() {
        assert!(line.starts_with("HTTP ") && whole.in_words().starts_with(&line));
    }
}

/// Resolves a user in the texts of an image. The input is the user, `/etc/passwd` and `/etc/group`, parted by zeros.
pub(super) fn users(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\0');
    let mut next = || parts.next().unwrap_or_default();
    let (wanted, passwd, group) = (next(), next(), next());
    if let Ok(user) = users::resolve(wanted, passwd, group) {
        let ids = user.ids;
        assert!([ids.uid, ids.gid].iter().chain(&ids.groups).all(|id| *id != u32::MAX), "{ids:?}");
        assert!(wanted.contains(':') || ids.groups.len() <= group.lines().count());
        assert!(user.name.is_empty() || passwd.contains(&user.name));
    }
}

/// Reads the command line of the kernel, the description of the image, and the output of a daemon that is kept.
pub(super) fn boot(input: &[u8]) {
    let (kind, bytes) = choice(input);
    match kind % 3 {
        0 => {
            let text = String::from_utf8_lossy(bytes);
            let boot = Boot::from_cmdline(&text);
            assert!(boot.token_in_port <= 256 && boot.token.len() <= text.len());
        }
        1 => drop(serde_json::from_slice::<Image>(bytes)),
        _ => {
            let mut kept = tail::Tail::default();
            for piece in pieces(bytes) {
                kept.push(piece);
            }
            let all = choice(bytes).1;
            let (end, written) = kept.since(0);
            assert_eq!((written, &*end), (all.len() as u64, &all[all.len() - end.len()..]));
            assert!(end.len() <= tail::TAIL_CAP && (end.len() == all.len() || end.len() == tail::TAIL_CAP));
            assert!(kept.since(u64::MAX).0.is_empty());
        }
    }
}
