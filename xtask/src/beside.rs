//! Folders that are there whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Makes `folder` what `make` leaves below a folder beside it, in the place that it answers; one that
/// is there is replaced. Nothing stays of an attempt that fails, and two that run at once do not meet.
///
/// # Errors
/// What `make` says, or the file system.
pub(crate) fn make(folder: &Path, make: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<()> {
    let mut partial = folder.as_os_str().to_owned();
    partial.push(format!(".{}", std::process::id()));
    let partial = PathBuf::from(partial);
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    let result = make(&partial).and_then(|made| {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("clear {}", folder.display()))?;
        }
        fs::rename(&made, folder).with_context(|| format!("rename to {}", folder.display()))
    });
    // Whatever happened, the partial folder is of no use; a failure to remove it is told by `ls`.
    let _ = fs::remove_dir_all(&partial);
    result
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_folder_is_whole_or_what_it_was() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("tool-v1.2");
        let fill = |text: &'static str| {
            move |partial: &Path| {
                let made = partial.join("made");
                fs::create_dir(&made)?;
                fs::write(made.join("file"), text)?;
                Ok(made)
            }
        };
        let content = || fs::read_to_string(folder.join("file")).unwrap();
        make(&folder, fill("first")).unwrap();
        assert_eq!(content(), "first");
        make(&folder, fill("second")).unwrap();
        assert_eq!(content(), "second");
        make(&folder, |_| bail!("no network")).unwrap_err();
        assert_eq!(content(), "second");
        let left: Vec<_> = place.path().read_dir().unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
