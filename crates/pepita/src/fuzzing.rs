//! Opens private parsers to the fuzz targets, with what must hold for any input.

use crate::commands::logs::stamps::Stamps;
use crate::disk::superblock::{LENGTH, Superblock};
use crate::host::tap;
use crate::image::cpio::Archive;
use crate::image::libraries::Program;
use crate::image::{elf, libraries, modules};
use crate::monitor::dial::{Dial, Progress};
use crate::ops::container;
use crate::rundir::addresses::Table;
use crate::rundir::console_log::Index;
use pepita_wire::LaunchSpec;
use pepita_wire::image::ImageRecord;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Reads what a program asks its loader for.
pub fn elf(file: &[u8]) {
    let Some(dynamic) = elf::read(file) else { return };
    assert!(file.starts_with(b"\x7fELF") && dynamic.needed.len() <= 4096);
    let names = dynamic.needed.iter().chain(&dynamic.soname).chain(&dynamic.rpath).chain(&dynamic.runpath);
    assert!(names.into_iter().all(|name| name.chars().count() < 4096 && !name.contains('\0')));
}

/// Looks for the libraries of a program of an image.
pub fn libraries(root: &Archive, path: &str, library_path: &str) {
    use crate::image::root::Root;
    let Some(bytes) = root.contents(path) else { return };
    let program = Program { what: "the daemon", path, library_path };
    if let Err(e) = libraries::require(root, &program, &bytes) {
        assert!(e.message.starts_with("the daemon: "), "{}", e.message);
    }
}

/// Reads which modules a module needs.
pub fn module(file: &[u8]) {
    let names = modules::depends(file);
    assert!(names.iter().all(|name| !name.is_empty() && !name.contains([',', '-', '\0'])));
}

/// Reads the superblock of a disk.
pub fn superblock(bytes: &[u8]) {
    let mut block = [0; LENGTH];
    let length = bytes.len().min(LENGTH);
    block[..length].copy_from_slice(&bytes[..length]);
    if let Some(read) = Superblock::parse(&block) {
        assert!(block[0x38..0x3a] == [0x53, 0xef] && read.bytes % 1024 == 0);
    }
}

/// Reads the table of addresses, and leases one.
pub fn addresses(bytes: &[u8]) {
    let Ok(mut table) = serde_json::from_slice::<Table>(bytes) else { return };
    for name in ["a", "b", "c"] {
        if let Some(number) = table.number_of(name, |name| name.len() < 2) {
            assert!(table.subnet.guests().contains(&number), "{number}");
            assert_eq!(table.number_of(name, |_| true), Some(number), "a name keeps its address");
        }
    }
    let text = serde_json::to_string(&table).expect("a table becomes JSON");
    assert!(serde_json::from_str::<Table>(&text).is_ok(), "{text}");
}

/// Stamps the lines of a log. However the output comes, the lines are the same.
pub fn stamps(index: &str, offset: u32, output: &[u8], length: usize) {
    let stamped = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut stamps, mut is_begun) = (Stamps::of(Index::parse(index), 7, offset.into()), false);
        pieces.flat_map(|piece| stamps.stamp(piece, &mut is_begun)).collect::<Vec<u8>>()
    };
    let (cut, whole) = (stamped(&mut output.chunks(length.max(1))), stamped(&mut [output].into_iter()));
    assert_eq!(cut, whole);
    assert!(whole.len() >= output.len());
}

/// Hears what a vsock back-end answers to `CONNECT`. The answer has a bound, and what comes after it is left in the socket.
pub fn connect_answer(answer: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let said = &answer[..answer.len().min(4096)];
    theirs.write_all(said).expect("room for it");
    drop(theirs);
    ours.set_nonblocking(true).expect("a socket");
    let mut dial = Dial::Asked { fd: ours.into(), answer: Vec::new(), number: 0 };
    for _ in 0..3 {
        match dial.advance() {
            Ok(Progress::Pending(again)) => dial = again,
            Ok(Progress::Connected(fd)) => {
                let end = said.iter().position(|byte| *byte == b'\n').expect("a whole line") + 1;
                assert!(said.starts_with(b"OK ") && end <= 32);
                let mut rest = Vec::new();
                UnixStream::from(fd).read_to_end(&mut rest).expect("what is left");
                assert_eq!(rest, &said[end..]);
                return;
            }
            Err(_) => return,
        }
    }
    panic!("no end, and all is said");
}

/// Reads the tables of nft. Only those of our own devices that are gone are named.
pub fn tables(listed: &str, devices: &str) {
    let stale = tap::stale(listed, devices);
    assert!(stale.is_empty() || listed.contains("pepita-p"));
}

/// Makes a launch of the record of a container image.
pub fn container(record: &[u8]) {
    let Ok(image) = serde_json::from_slice::<ImageRecord>(record) else { return };
    if let Ok(spec) = container::with_image(LaunchSpec::default(), &image) {
        assert!(!spec.command.is_empty());
    }
    if let Ok(used) = container::used(&image, &["/data"]) {
        assert!(used.unkept.len() <= 8 && used.unkept.iter().all(|path| path.len() <= 4 * 256));
        assert!(used.stop_signal.is_none_or(|signal| (1..=64).contains(&signal.number())));
        let health = used.health.iter().flat_map(|health| &health.command);
        assert!(health.map(String::len).sum::<usize>() <= 16 << 10);
    }
}
