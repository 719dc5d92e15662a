//! What every place that has an image can be asked for.

use crate::error::Result;
use crate::manifest::Descriptor;
use crate::store::BlobWriter;

/// A place that has one image.
pub trait Origin {
    /// Returns the manifest of the image for guests. Whatever an index or a name has led to is verified.
    ///
    /// # Errors
    /// When the place cannot be asked, or has no image that guests can run.
    fn manifest(&mut self) -> Result<Vec<u8>>;
    /// Writes a blob of the image, which the writer verifies. `told` is told of the bytes so far.
    ///
    /// # Errors
    /// When the place does not give the blob, or it cannot be written.
    fn blob(&mut self, blob: &Descriptor, into: &mut BlobWriter, told: &dyn Fn(u64)) -> Result<()>;
}
