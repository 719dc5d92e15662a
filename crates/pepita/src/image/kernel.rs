//! Recognises kernel files, and extracts the uncompressed kernel from a bzImage, which boots faster. The bytes may come
//! from any program, so every offset is checked.

use crate::error::{Result, call_error, io};
use crate::image::length;
use crate::rundir::RunDir;
use crate::rundir::files::replace_cached;
use lz4_flex::frame::FrameDecoder;
use pepita_wire::record::CallErrorKind;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The maximum size of an unpacked kernel, in bytes.
const KERNEL_CAP: usize = 256 << 20;

/// The most bytes that LZ4 unpacks from one byte. A file that claims more is none that can be unpacked.
const LZ4_RATIO: usize = 255;

/// The kind of a kernel file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An uncompressed kernel.
    Elf,
    /// A bzImage: a compressed kernel with a boot header.
    BzImage,
    /// A file that is not recognised as a kernel.
    Unknown,
}

/// Recognises the kind of a kernel from the first bytes of its file.
pub fn recognise(head: &[u8]) -> Kind {
    if head.starts_with(b"\x7fELF") {
        Kind::Elf
    } else if head.get(0x202..0x206) == Some(b"HdrS") {
        Kind::BzImage
    } else {
        Kind::Unknown
    }
}

/// Returns the release that a kernel names in itself, as uname(1) prints it.
pub fn release(image: &[u8]) -> Option<String> {
    let text = match recognise(image) {
        Kind::BzImage => {
            // Documentation/arch/x86/boot.rst: `kernel_version` is a pointer less 0x200.
            let offset = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
            image.get(usize::from(offset) + 0x200..).filter(|_| offset != 0)?
        }
        Kind::Elf => {
            let mark = b"Linux version ";
            let at = image.windows(mark.len()).position(|bytes| bytes == mark)?;
            &image[at + mark.len()..]
        }
        Kind::Unknown => return None,
    };
    let end = text.iter().take(256).position(|byte| matches!(byte, 0 | b' ' | b'\n'))?;
    String::from_utf8(text[..end].to_vec()).ok()
}

/// Returns whether a kernel can load modules. A kernel that cannot has all drivers built in. A compressed kernel is taken for one
/// that can.
///
/// # Errors
/// When the kernel cannot be read.
pub fn loads_modules(kernel: &Path) -> Result<bool> {
    let image = std::fs::read(kernel).map_err(|e| io(kernel, e))?;
    // The setting below /proc/sys/kernel that ends the loading of modules. Only a kernel that loads them has it.
    let mark = b"modules_disabled\0";
    Ok(recognise(&image) != Kind::Elf || image.windows(mark.len()).any(|bytes| bytes == mark))
}

/// Returns the uncompressed kernel in a bzImage that is packed with LZ4, as Debian's kernels are; `None` for any other
/// file.
pub fn unpack(image: &[u8]) -> Option<Vec<u8>> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(image.get(at..at.checked_add(4)?)?.try_into().ok()?));
    if recognise(image) != Kind::BzImage {
        return None;
    }
    // Documentation/arch/x86/boot.rst: for compatibility with old loaders, 0 means 4.
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let from = (sectors + 1).checked_mul(512)?.checked_add(usize::try_from(u32_at(0x248)?).ok()?)?;
    let length = usize::try_from(u32_at(0x24c)?).ok()?;
    let payload = image.get(from..from.checked_add(length)?)?;
    // The last four bytes are the size of the unpacked kernel.
    let (packed, size) = payload.split_at_checked(payload.len().checked_sub(4)?)?;
    let size = usize::try_from(u32::from_le_bytes(size.try_into().ok()?)).ok()?;
    (size <= KERNEL_CAP.min(packed.len().saturating_mul(LZ4_RATIO)))
        .then(|| unpack_lz4(packed, size))
        .flatten()
}

/// Unpacks an LZ4 legacy frame whose unpacked size is `size` bytes.
fn unpack_lz4(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(size);
    let limit = u64::try_from(size).ok()?;
    FrameDecoder::new(packed).take(limit).read_to_end(&mut out).ok()?;
    (out.len() == size && recognise(&out) == Kind::Elf).then_some(out)
}

/// Returns the file to pass to the VMM for a kernel: the unpacked kernel in the cache, or else the file itself.
///
/// # Errors
/// When the file is missing, truncated, or no kernel.
pub fn prepare(dir: &RunDir, kernel: &Path) -> Result<PathBuf> {
    let kernel = std::fs::canonicalize(kernel).map_err(|e| missing("kernel", kernel, &e))?;
    must_be_file("kernel", &kernel)?;
    let mut file = File::open(&kernel).map_err(|e| io(&kernel, e))?;
    let mut head = vec![0; 0x1000];
    let read = read_up_to(&mut file, &mut head).map_err(|e| io(&kernel, e))?;
    let length = file.metadata().map_err(|e| io(&kernel, e))?.len();
    if length::kernel_length(&head[..read]).is_some_and(|claimed| claimed > length) {
        let why = format!("kernel {}: it is cut short, at {length} bytes; copy it again", kernel.display());
        return Err(call_error(CallErrorKind::BadImage, why));
    }
    match recognise(&head[..read]) {
        Kind::Elf => Ok(kernel),
        Kind::BzImage => {
            let cached = cache(dir, &kernel, "vmlinux")?;
            if is_whole(&cached) {
                return Ok(cached);
            }
            let image = std::fs::read(&kernel).map_err(|e| io(&kernel, e))?;
            let Some(unpacked) = unpack(&image) else { return Ok(kernel) };
            // When the cache cannot be written, the VMM gets the compressed kernel, which only boots more slowly.
            Ok(replace_cached(&cached, &unpacked).map_or(kernel, |()| cached))
        }
        Kind::Unknown => Err(call_error(
            CallErrorKind::BadImage,
            format!("kernel {}: this is none (neither ELF nor bzImage)", kernel.display()),
        )),
    }
}

/// Returns whether an unpacked kernel is in the cache, with all its bytes: a power cut may have left a part of it.
fn is_whole(cached: &Path) -> bool {
    let Ok(mut file) = File::open(cached) else { return false };
    let mut head = vec![0; 0x1000];
    let read = read_up_to(&mut file, &mut head).unwrap_or(0);
    let length = file.metadata().map_or(0, |meta| meta.len());
    length::kernel_length(&head[..read]).is_some_and(|claimed| claimed <= length)
}

/// Returns a path in the cache that is different after a change of the file `of`.
///
/// # Errors
/// When the metadata of the file cannot be read.
pub fn cache(dir: &RunDir, of: &Path, kind: &str) -> Result<PathBuf> {
    let meta = of.metadata().map_err(|e| io(of, e))?;
    let mut hasher = DefaultHasher::new();
    (of, meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()).hash(&mut hasher);
    Ok(dir.cache().join(format!("{:016x}.{kind}", hasher.finish())))
}

/// Refuses what is no file. Opening a named pipe would wait for a writer for ever.
///
/// # Errors
/// When it is no file, or its metadata cannot be read.
pub fn must_be_file(what: &str, path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => {
            Err(call_error(CallErrorKind::BadImage, format!("{what} {}: it is no file", path.display())))
        }
        Err(e) => Err(missing(what, path, &e)),
    }
}

/// Returns the error about a file that the user named and that cannot be read.
pub fn missing(what: &str, path: &Path, error: &std::io::Error) -> crate::error::CallError {
    let is_forbidden = error.kind() == std::io::ErrorKind::PermissionDenied;
    let kind = if is_forbidden { CallErrorKind::Permission } else { CallErrorKind::BadImage };
    call_error(kind, format!("{what} {}: {error}", path.display()))
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    /// The magic number of an LZ4 legacy frame, little endian.
    const LZ4_LEGACY: u32 = 0x184c_2102;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).expect("small").to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn the_kernel_comes_out_of_its_wrapping() {
        let kernel = [b"\x7fELF".as_slice(), &[7; 20 << 20]].concat();
        let mut payload = LZ4_LEGACY.to_le_bytes().to_vec();
        // The build of the Linux kernel compresses every 8 MiB into one block.
        for part in kernel.chunks(8 << 20) {
            let block = lz4_flex::block::compress(part);
            payload.extend(u32::try_from(block.len()).expect("small").to_le_bytes());
            payload.extend(block);
        }
        payload.extend(u32::try_from(kernel.len()).expect("small").to_le_bytes());
        assert_eq!(unpack(&bzimage(&payload)), Some(kernel));
        payload.truncate(payload.len() / 2);
        assert_eq!(unpack(&bzimage(&payload)), None);
    }

    #[test]
    fn a_kernel_with_everything_built_in_is_recognised() {
        let dir = tempfile::tempdir().expect("a directory");
        let loads = |image: &[u8]| {
            let path = dir.path().join("kernel");
            std::fs::write(&path, image).expect("written");
            loads_modules(&path).expect("readable")
        };
        assert!(loads(b"\x7fELF\0panic\0modules_disabled\0printk\0"));
        assert!(!loads(b"\x7fELF\0panic\0printk\0"));
        assert!(loads(&bzimage(b"packed")), "nothing is known of it");
        assert!(loads_modules(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn a_cached_kernel_that_is_cut_short_is_unpacked_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let run_dir = RunDir::choose(Some(&dir.path().join("run"))).expect("ours");
        run_dir.create().expect("made");
        let mut kernel = vec![0; 1 << 20];
        kernel[..6].copy_from_slice(b"\x7fELF\x02\x01");
        // One segment, which ends with the file.
        (kernel[0x20], kernel[0x36], kernel[0x38], kernel[0x40 + 0x22]) = (0x40, 56, 1, 0x10);
        let block = lz4_flex::block::compress(&kernel);
        let length = u32::try_from(block.len()).expect("small").to_le_bytes();
        let size = u32::try_from(kernel.len()).expect("small").to_le_bytes();
        let payload = [&LZ4_LEGACY.to_le_bytes()[..], &length, &block, &size].concat();
        let image = dir.path().join("vmlinuz");
        std::fs::write(&image, bzimage(&payload)).expect("written");
        let cached = prepare(&run_dir, &image).expect("a kernel");
        assert_eq!(std::fs::read(&cached).expect("a file"), kernel);
        // Another VM, whose user it is to be readable for, may be about to open it when it is replaced.
        assert_eq!(cached.metadata().expect("there").permissions().mode() & 0o777, 0o644);
        for left in [0, 100, kernel.len() - 1] {
            std::fs::write(&cached, &kernel[..left]).expect("written");
            assert_eq!(prepare(&run_dir, &image).expect("a kernel"), cached);
            assert_eq!(std::fs::read(&cached).expect("a file").len(), kernel.len(), "{left}");
        }
    }

    proptest! {
        #[test]
        fn no_file_breaks_it(payload in proptest::collection::vec(any::<u8>(), 0..2000), cut in 0_usize..1100) {
            let mut image = bzimage(&payload);
            unpack(&image);
            image.truncate(cut);
            unpack(&image);
            let lz4 = [&LZ4_LEGACY.to_le_bytes(), payload.as_slice()].concat();
            unpack(&bzimage(&lz4));
            release(&image);
            release(&bzimage(&payload));
        }
    }
}
