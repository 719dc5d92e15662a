//! The fuzz targets: each is a parser of bytes that somebody else has written, with what must hold for any input.
//!
//! A target asserts more than that nothing panics: what was read can be written and read again, lengths are within their
//! bounds, and the memory of one input has a bound. `tests/fuzzing.rs` of the main workspace runs the seeds of each target
//! without libFuzzer.

pub mod memory;

mod agent;
mod copy;
mod images;
mod jail;
mod launcher;
mod scratch;
mod supervisor;
mod tar;
mod wire;

/// A parser of the bytes of strangers.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of the target, of its program and of the folder of its seeds.
    pub name: &'static str,
    /// The parser, with what must hold.
    parse: fn(&[u8]),
    /// The bytes of memory that the parser may hold for one input, however small the input is.
    memory: usize,
}

/// The bytes of memory that each byte of an input may cost on top of that: a parsed value is larger than its text.
const FOR_EACH_BYTE: usize = 128;

impl Target {
    const fn new(name: &'static str, parse: fn(&[u8]), memory: usize) -> Self {
        Self { name, parse, memory }
    }

    /// Runs an input.
    ///
    /// # Panics
    /// When the input is a finding.
    pub fn run(&self, input: &[u8]) {
        let most = memory::most_of(|| (self.parse)(input));
        let bound = self.memory + input.len() * FOR_EACH_BYTE;
        assert!(
            most <= bound,
            "{most} bytes of memory for an input of {}; the bound is {bound}",
            input.len()
        );
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All targets.
pub const ALL: &[Target] = &[
    Target::new("wire_to_guest", wire::to_guest, 64 * KIB),
    Target::new("wire_to_host", wire::to_host, 64 * KIB),
    Target::new("wire_lines", wire::lines, 64 * KIB),
    Target::new("wire_conversation", wire::conversation, 512 * KIB),
    Target::new("wire_control", wire::control, 64 * KIB),
    Target::new("wire_console", wire::console, 64 * KIB),
    Target::new("wire_records", wire::records, 64 * KIB),
    Target::new("wire_words", wire::words, 64 * KIB),
    Target::new("wire_streams", wire::streams, 256 * KIB),
    Target::new("wire_chunks", wire::chunks, 64 * KIB),
    Target::new("wire_text", wire::text, 64 * KIB),
    Target::new("images_manifest", images::manifest, 64 * KIB),
    Target::new("images_config", images::config, 64 * KIB),
    Target::new("images_challenge", images::challenge, 64 * KIB),
    Target::new("images_reference", images::reference, 32 * MIB),
    Target::new("images_layer", images::layer, 2 * MIB),
    Target::new("images_tree", images::tree, 64 * KIB),
    Target::new("images_docker_archive", images::docker_archive, 2 * MIB),
    Target::new("images_oci_layout", images::oci_layout, 512 * KIB),
    Target::new("images_token", images::token, 64 * KIB),
    Target::new("images_refusal", images::refusal, 64 * MIB),
    Target::new("images_credentials", images::credentials, 64 * KIB),
    Target::new("copy_entries", copy::entries, 2 * MIB),
    Target::new("copy_unpack", copy::unpack_archive, 256 * KIB),
    Target::new("jail_plan", jail::plan, 64 * KIB),
    Target::new("jail_answer", jail::answer, 64 * KIB),
    Target::new("agent_notify", agent::notify, 64 * KIB),
    Target::new("agent_http", agent::http, 64 * KIB),
    Target::new("agent_users", agent::users, 64 * KIB),
    Target::new("agent_boot", agent::boot, 256 * KIB),
    Target::new("supervisor_config", supervisor::config, MIB),
    Target::new("supervisor_control", supervisor::control, 64 * KIB),
    Target::new("supervisor_journal", supervisor::journal, 64 * KIB),
    Target::new("supervisor_probe", supervisor::probe, 64 * KIB),
    Target::new("launcher_elf", launcher::elf, 20 * MIB),
    Target::new("launcher_libraries", launcher::libraries, 32 * MIB),
    Target::new("launcher_cpio", launcher::cpio, 64 * KIB),
    Target::new("launcher_module", launcher::module, 64 * KIB),
    Target::new("launcher_superblock", launcher::superblock, 64 * KIB),
    Target::new("launcher_addresses", launcher::addresses, 64 * KIB),
    Target::new("launcher_connect", launcher::connect_answer, 64 * KIB),
    Target::new("launcher_container", launcher::container, 64 * KIB),
    Target::new("launcher_stamps", launcher::stamps, 64 * KIB),
    Target::new("launcher_tables", launcher::tables, 64 * KIB),
    Target::new("launcher_qmp", launcher::qmp, 64 * KIB),
    Target::new("launcher_console", launcher::console, 64 * KIB),
    Target::new("launcher_files", launcher::files, 64 * KIB),
    Target::new("launcher_kernel", launcher::kernel, 64 * MIB),
    Target::new("launcher_words", launcher::words, 64 * KIB),
];

/// Returns the target of a name.
///
/// # Panics
/// When there is none.
pub const fn named(name: &str) -> Target {
    let mut at = 0;
    while at < ALL.len() {
        if is_same(ALL[at].name.as_bytes(), name.as_bytes()) {
            return ALL[at];
        }
        at += 1;
    }
    panic!("no target has the name of this program")
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// Takes a byte off an input, by which the target chooses: what to parse, or how the input is cut into pieces.
fn choice(input: &[u8]) -> (usize, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (usize::from(*first), rest))
}

/// Returns the pieces in which a stream may arrive. The first byte decides: all at once, or in pieces of up to 255 bytes.
fn pieces(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (length, rest) = choice(input);
    rest.chunks(if length == 0 { usize::MAX } else { length })
}

/// Asserts that a word which was read is written and read again as the same word.
fn is_written_and_read<T>(text: &str)
where
    T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug,
{
    if let Ok(word) = text.parse::<T>() {
        let written = word.to_string();
        assert_eq!(written.parse::<T>().ok(), Some(word), "{written:?}");
    }
}
