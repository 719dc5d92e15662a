//! What the launcher and its monitors read of guests, of VMMs, of users and of their own files.

use super::scratch::Scratch;
use super::{choice, pieces};
use pepita_launcher::cli;
use pepita_launcher::fuzzing;
use pepita_launcher::image::cpio::{Archive, Entry, Kind};
use pepita_launcher::image::{build, kernel, length};
use pepita_launcher::monitor::{QmpMessage, Scanner};
use pepita_launcher::rundir::cid;
use pepita_launcher::rundir::console_log::Index;
use pepita_launcher::rundir::files::State;
use pepita_launcher::vm_config::VmConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;

pub(super) use fuzzing::{addresses, connect_answer, container, elf, module, superblock};

/// Reads a line of QEMU's monitor protocol.
pub(super) fn qmp(line: &[u8]) {
    match QmpMessage::parse(line) {
        QmpMessage::Refused(text) | QmpMessage::Shutdown(text) | QmpMessage::DiskError(text) => {
            assert!(text.len() <= 200, "{text}");
        }
        QmpMessage::Done | QmpMessage::Stopped | QmpMessage::Memory { .. } | QmpMessage::Other => {}
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

/// Takes a part off an input that begins with its length, in two bytes.
fn part<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, more)) = rest.split_first_chunk::<2>() else { return std::mem::take(rest) };
    let (part, more) = more.split_at(usize::from(u16::from_le_bytes(*length)).min(more.len()));
    *rest = more;
    part
}

/// Returns the root that an input describes: a kind, a path and contents for each file.
fn root(mut rest: &[u8]) -> Archive {
    let mut archive = Archive::new();
    while let Some((kind, more)) = rest.split_first() {
        rest = more;
        let (path, contents) = (part(&mut rest).to_vec(), part(&mut rest));
        let kind = match kind % 4 {
            0 => Kind::File(contents.into()),
            1 => Kind::Link(contents.to_vec()),
            2 => Kind::Directory,
            _ => Kind::Pipe,
        };
        archive.add(path, Entry { kind, mode: 0o755, uid: 0, gid: 0 });
    }
    archive
}

/// Looks for the libraries of a program of an image, which may have any files.
pub(super) fn libraries(input: &[u8]) {
    let mut rest = input;
    let library_path = String::from_utf8_lossy(part(&mut rest)).into_owned();
    fuzzing::libraries(&root(rest), "/bin/a", &library_path);
}

/// Writes an archive of any files, which is whole, and looks whether other bytes are one.
pub(super) fn cpio(input: &[u8]) {
    let file = |bytes: &[u8]| {
        let mut found = false;
        Scratch::with("cpio", |dir| {
            std::fs::write(dir.join("a.cpio"), bytes).expect("room for an archive");
            found = length::has_trailer(&File::open(dir.join("a.cpio")).expect("there"));
        });
        found
    };
    match input.split_first() {
        Some((b'w', rest)) => assert!(file(&root(rest).finish())),
        Some(_) | None => drop(file(input)),
    }
}

/// Stamps the lines of a log. The input is the offset, the index and the output.
pub(super) fn stamps(input: &[u8]) {
    let (length, mut rest) = choice(input);
    let Some((offset, more)) = rest.split_first_chunk::<2>() else { return };
    rest = more;
    let index = String::from_utf8_lossy(part(&mut rest)).into_owned();
    fuzzing::stamps(&index, u16::from_le_bytes(*offset).into(), rest, length);
}

/// Reads what nft and the kernel say of tables and devices, parted by a zero.
pub(super) fn tables(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (listed, devices) = text.split_once('\0').unwrap_or((&text, ""));
    fuzzing::tables(listed, devices);
}
