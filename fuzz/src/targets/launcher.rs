//! What the launcher and its monitors read of guests, of VMMs, of users and of their own files.

use super::{choice, pieces};
use pepita_launcher::cli;
use pepita_launcher::image::{build, kernel, length};
use pepita_launcher::monitor::{QmpMessage, Scanner};
use pepita_launcher::rundir::cid;
use pepita_launcher::rundir::console_log::Index;
use pepita_launcher::rundir::files::State;
use pepita_launcher::vm_config::VmConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a line of QEMU's monitor protocol.
pub(super) fn qmp(line: &[u8]) {
    match QmpMessage::parse(line) {
        QmpMessage::Refused(text) | QmpMessage::Shutdown(text) | QmpMessage::DiskError(text) => {
            assert!(text.len() <= 200, "{text}");
        }
        QmpMessage::Done | QmpMessage::Stopped | QmpMessage::Other => {}
    }
}

/// Scans the output of a console. However it comes, the output is the same.
pub(super) fn console(input: &[u8]) {
    let (mut scanner, mut whole, mut output, mut expected) =
        (Scanner::new(), Scanner::new(), Vec::new(), Vec::new());
    for piece in pieces(input) {
        assert!(scanner.push(piece, &["another", ""], &mut output).is_empty());
    }
    whole.push(choice(input).1, &["another", ""], &mut expected);
    assert_eq!(output, expected);
    assert!(output.len() <= input.len());
    for lines in [scanner.last_lines(), scanner.lines_around_panic()] {
        assert!(lines.len() <= 21 && lines.iter().all(|line| line.chars().count() <= 200));
    }
    assert_eq!((scanner.last_lines(), scanner.panic_line()), (whole.last_lines(), whole.panic_line()));
    let mut rest = Vec::new();
    Scanner::new().push(choice(input).1, &["secret"], &mut rest);
    assert!(rest.len() <= input.len());
}

/// Asserts that a file which was read is written and read again as the same.
fn file<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) {
    if let Ok(read) = serde_json::from_slice::<T>(bytes) {
        let text = serde_json::to_string(&read).expect("a file becomes JSON");
        assert!(serde_json::from_str::<T>(&text).expect("a text of ours") == read, "{text}");
    }
}

/// Reads the files of a run directory.
pub(super) fn files(input: &[u8]) {
    let (kind, bytes) = choice(input);
    match kind {
        b if b == usize::from(b'c') => file::<VmConfig>(bytes),
        b if b == usize::from(b's') => file::<State>(bytes),
        _ => {
            let text = String::from_utf8_lossy(bytes);
            let mut index = Index::parse(&text);
            assert!(index.marks.len() <= text.lines().count());
            assert_eq!(Index::parse(&index.text()), index);
            index.time_at(kind as u64);
            index.offset_at(kind as u64);
            let marks = index.marks.len();
            index.thin_out(u64::MAX / 2, 256);
            assert!(index.marks.len() <= marks);
        }
    }
}

/// Recognises a kernel or an image, and unpacks a kernel.
pub(super) fn kernel(bytes: &[u8]) {
    build::kind_of(bytes);
    length::kernel_length(bytes);
    length::ext4_length(bytes);
    if let Some(release) = kernel::release(bytes) {
        assert!(release.len() <= 256);
    }
    if let Some(unpacked) = kernel::unpack(bytes) {
        assert_eq!(kernel::recognise(&unpacked), kernel::Kind::Elf);
    }
}

/// Reads a file of environment variables, and the words of options.
pub(super) fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match cli::env_file(text) {
        Ok(env) => assert!(env.keys().all(|key| !key.is_empty() && !key.contains('='))),
        Err((line, _)) => assert!((1..=text.lines().count()).contains(&line)),
    }
    if let Ok(cid::Wanted::Fixed(cid)) = text.parse() {
        assert!((3..u32::MAX).contains(&cid.get()));
    }
}
