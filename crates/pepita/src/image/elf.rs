//! Reads what an ELF file asks its loader for: elf(5), ld.so(8). A file may be cut short or hostile, and answers less then.

/// The maximum number of entries of a dynamic section that are read.
const ENTRIES_CAP: u64 = 4096;

/// The maximum number of segments that are read. The kernel starts no program with more than 64 KiB of headers.
const SEGMENTS_CAP: u64 = (64 << 10) / 32;

/// The maximum length of a name, in bytes (PATH_MAX).
const NAME_CAP: usize = 4096;

/// The kinds of segments.
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;

/// The tags of a dynamic section.
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// What one program or library asks its loader for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// The class (32 or 64 bits) and the machine. A loader passes over a library of another kind.
    pub(crate) machine: (u8, u64),
    /// The libraries that have to be loaded with it.
    pub(crate) needed: Vec<String>,
    /// Its own name as a library.
    pub(crate) soname: Option<String>,
    /// Directories to search, also on behalf of the libraries that it loads.
    pub(crate) rpath: Option<String>,
    /// Directories to search for its own libraries. `rpath` does not count then.
    pub(crate) runpath: Option<String>,
}

/// Returns what an ELF file asks for; `None` for any other file, and for one of the other byte order.
pub(crate) fn read(file: &[u8]) -> Option<Dynamic> {
    if !file.starts_with(b"\x7fELF") || *file.get(5)? != 1 {
        return None;
    }
    let class = *file.get(4)?;
    let elf = Elf { file, is_wide: class != 1 };
    let machine = (class, elf.number(0x12, 2)?);
    Some(elf.dynamic(machine).unwrap_or(Dynamic { machine, ..Dynamic::default() }))
}

struct Elf<'a> {
    file: &'a [u8],
    /// Whether its words have 64 bits.
    is_wide: bool,
}

/// A segment of a file.
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    length: u64,
}

impl Elf<'_> {
    fn number(&self, at: u64, bytes: u64) -> Option<u64> {
        let (from, to) = (usize::try_from(at).ok()?, usize::try_from(at.checked_add(bytes)?).ok()?);
        Some(self.file.get(from..to)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn word(&self, at: u64) -> Option<u64> {
        self.number(at, if self.is_wide { 8 } else { 4 })
    }

    fn segments(&self) -> Option<Vec<Segment>> {
        // The places of the fields differ between files of 32 and of 64 bits.
        let (table, size, count) = if self.is_wide { (0x20, 0x36, 0x38) } else { (0x1c, 0x2a, 0x2c) };
        let (offset, address, length) = if self.is_wide { (8, 16, 32) } else { (4, 8, 16) };
        let (table, size, count) = (self.word(table)?, self.number(size, 2)?, self.number(count, 2)?);
        let headers = (0..count.min(SEGMENTS_CAP)).filter_map(|index| table.checked_add(index * size));
        let segments = headers.map_while(|at| {
            Some(Segment {
                kind: self.number(at, 4)?,
                offset: self.word(at.checked_add(offset)?)?,
                address: self.word(at.checked_add(address)?)?,
                length: self.word(at.checked_add(length)?)?,
            })
        });
        Some(segments.collect())
    }

    fn dynamic(&self, machine: (u8, u64)) -> Option<Dynamic> {
        let segments = self.segments()?;
        let section = segments.iter().find(|segment| segment.kind == PT_DYNAMIC)?;
        let size: u64 = if self.is_wide { 8 } else { 4 };
        let entries = (0..(section.length / (2 * size)).min(ENTRIES_CAP)).map_while(|index| {
            let at = section.offset.checked_add(index * 2 * size)?;
            Some((self.word(at)?, self.word(at.checked_add(size)?)?))
        });
        let entries: Vec<(u64, u64)> = entries.take_while(|(tag, _)| *tag != DT_NULL).collect();
        let (_, address) = *entries.iter().find(|(tag, _)| *tag == DT_STRTAB)?;
        // The table of names is given by its address in memory.
        let holds = |segment: &&Segment| {
            let within = address.checked_sub(segment.address);
            segment.kind == PT_LOAD && within.is_some_and(|within| within < segment.length)
        };
        let segment = segments.iter().find(holds)?;
        let names = segment.offset.checked_add(address - segment.address)?;
        let named = |wanted: u64| {
            let entries = entries.iter().filter(move |(tag, _)| *tag == wanted);
            entries.filter_map(|(_, at)| self.name(names.checked_add(*at)?))
        };
        Some(Dynamic {
            machine,
            needed: named(DT_NEEDED).collect(),
            soname: named(DT_SONAME).next(),
            rpath: named(DT_RPATH).next(),
            runpath: named(DT_RUNPATH).next(),
        })
    }

    fn name(&self, at: u64) -> Option<String> {
        let bytes = self.file.get(usize::try_from(at).ok()?..)?;
        let length = bytes.iter().take(NAME_CAP).position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_program_of_this_host_names_its_libraries_and_a_script_is_none() {
        let test = std::fs::read(std::env::current_exe().expect("this test")).expect("read");
        let dynamic = read(&test).expect("a program");
        assert!(dynamic.needed.iter().any(|name| name == "libc.so.6"), "{dynamic:?}");
        assert_eq!(read(b"#!/bin/sh\n"), None);
        // Without the section there is nothing to ask for.
        assert_eq!(read(&test[..64]).map(|dynamic| dynamic.needed), Some(vec![]));
    }

    proptest! {
        #[test]
        fn no_file_breaks_it(
            class in 1_u8..3,
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(2), Just(5), any::<u8>()], 0..300),
        ) {
            read(&[b"\x7fELF", &[class, 1][..], &bytes].concat());
        }
    }
}
