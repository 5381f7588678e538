//! Kernel modules: which are needed for a list of functions, and the two tables by which busybox finds them.
//!
//! Debian's kernel packages come without `modules.dep`; each module says itself what it depends on (its section `.modinfo`), so no
//! `depmod` is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::elf::{self, ElfError};
use crate::cpio::{Archive, CpioError};

/// Larger than any module.
const MODULE_MAX: u64 = 64 << 20;
/// Deeper than any directory below `kernel/`.
const DEPTH_MAX: usize = 16;
/// For one module to be decompressed.
const DECOMPRESS: Duration = Duration::from_secs(60);

/// Why the modules of a kernel cannot be had.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// The directory of modules, or one of them, cannot be read.
    #[error("cannot read the kernel module {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no module.
    #[error("the kernel module {name} {source}")]
    Bad {
        /// Which.
        name: String,
        /// What is wrong with it.
        #[source]
        source: ElfError,
    },
    /// A module says that it needs one that the kernel has not.
    #[error("the kernel module {name} needs {needs}, which the kernel package does not have")]
    Missing {
        /// Which.
        name: String,
        /// What it needs.
        needs: String,
    },
    /// Two modules need each other.
    #[error("the kernel module {0} needs itself")]
    Circle(String),
    /// It cannot be in the archive.
    #[error(transparent)]
    Archive(#[from] CpioError),
}

/// A module that is taken.
struct Module {
    /// Below the kernel's directory, without the suffix of its compression.
    path: String,
    content: Vec<u8>,
    depends: Vec<String>,
    soft: Vec<String>,
    aliases: Vec<String>,
}

/// The modules of one kernel.
struct Kernel {
    dir: PathBuf,
    /// By name, with `_` for `-` as the kernel has it.
    there: BTreeMap<String, String>,
    builtin: BTreeSet<String>,
    builtin_list: Vec<u8>,
}

/// What became of the wished modules.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// How many are in the scout, with those that they need.
    pub(crate) count: usize,
    /// What this kernel has neither as a module nor built in.
    pub(crate) absent: Vec<String>,
}

/// Puts the wished modules of the kernel in `dir` (`…/lib/modules/VERSION`), all that they need, and the tables into the archive.
pub(crate) fn take<'a>(
    dir: &Path,
    wished: impl IntoIterator<Item = &'a str>,
    archive: &mut Archive,
) -> Result<Taken, ModuleError> {
    let kernel = Kernel::open(dir)?;
    let mut taken = BTreeMap::new();
    let mut absent = Vec::new();
    for name in wished {
        let name = canonical(name);
        if kernel.there.contains_key(&name) {
            kernel.add(name, &mut taken)?;
        } else if !kernel.builtin.contains(&name) {
            absent.push(name);
        }
    }
    let version = dir.file_name().unwrap_or_default().to_string_lossy();
    let at = |path: &str| format!("usr/lib/modules/{version}/{path}");
    archive.file(&at("modules.dep"), false, dependency_table(&taken)?.into_bytes())?;
    archive.file(&at("modules.alias"), false, alias_table(&taken).into_bytes())?;
    archive.file(&at("modules.builtin"), false, kernel.builtin_list)?;
    let count = taken.len();
    for module in taken.into_values() {
        archive.file(&at(&module.path), false, module.content)?;
    }
    Ok(Taken { count, absent })
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The name in a path `kernel/a/b.ko.xz`, and the path without the suffix of its compression.
fn name_of(path: &str) -> Option<(String, &str)> {
    let plain = path.strip_suffix(".xz").or_else(|| path.strip_suffix(".zst")).unwrap_or(path);
    let file = plain.rsplit('/').next()?;
    Some((canonical(file.strip_suffix(".ko")?), plain))
}

impl Kernel {
    fn open(dir: &Path) -> Result<Self, ModuleError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| ModuleError::Read { path: path.to_owned(), source })
        };
        let builtin_list = read(&dir.join("modules.builtin"))?;
        let listed = String::from_utf8_lossy(&builtin_list);
        let builtin = listed.lines().filter_map(|line| Some(name_of(line)?.0)).collect();
        let mut there = BTreeMap::new();
        walk(dir, "kernel", DEPTH_MAX, &mut there)?;
        Ok(Self { dir: dir.to_owned(), there, builtin, builtin_list: builtin_list.clone() })
    }

    /// Adds a module that is there, and those that it needs.
    fn add(&self, name: String, taken: &mut BTreeMap<String, Module>) -> Result<(), ModuleError> {
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            if taken.contains_key(&name) {
                continue;
            }
            let Some(path) = self.there.get(&name) else { continue };
            let module = self.read(&name, path)?;
            for needed in &module.depends {
                if !self.there.contains_key(needed) && !self.builtin.contains(needed) {
                    return Err(ModuleError::Missing { name, needs: needed.clone() });
                }
            }
            open.extend(module.depends.iter().chain(&module.soft).cloned());
            taken.insert(name, module);
        }
        Ok(())
    }

    fn read(&self, name: &str, path: &str) -> Result<Module, ModuleError> {
        let file = self.dir.join(path);
        let error = |source| ModuleError::Read { path: file.clone(), source };
        let content = if path.ends_with(".xz") {
            unpack_xz(&file).map_err(error)?
        } else if path.ends_with(".zst") {
            let packed = fs::read(&file).map_err(error)?;
            zstd::bulk::decompress(&packed, MODULE_MAX as usize).map_err(error)?
        } else {
            fs::read(&file).map_err(error)?
        };
        let bad = |source| ModuleError::Bad { name: name.to_owned(), source };
        let (mut depends, mut soft, mut aliases) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in elf::module_info(&content).map_err(bad)? {
            match key {
                "depends" => {
                    depends.extend(value.split(',').filter(|n| !n.is_empty()).map(canonical))
                }
                "softdep" => {
                    let names = value.split_whitespace().filter(|word| !word.ends_with(':'));
                    soft.extend(names.map(canonical));
                }
                "alias" => aliases.push(value.to_owned()),
                _ => {}
            }
        }
        let plain = name_of(path).map_or(path, |(_, plain)| plain).to_owned();
        Ok(Module { path: plain, content, depends, soft, aliases })
    }
}

fn walk(
    dir: &Path,
    below: &str,
    depth: usize,
    found: &mut BTreeMap<String, String>,
) -> Result<(), ModuleError> {
    let here = dir.join(below);
    let error = |source| ModuleError::Read { path: here.clone(), source };
    for entry in fs::read_dir(&here).map_err(error)? {
        let entry = entry.map_err(error)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{below}/{name}");
        let kind = entry.file_type().map_err(error)?;
        if kind.is_dir() && depth > 0 {
            walk(dir, &path, depth - 1, found)?;
        } else if let Some((name, _)) = name_of(&path).filter(|_| kind.is_file()) {
            found.insert(name, path);
        }
    }
    Ok(())
}

fn unpack_xz(file: &Path) -> io::Result<Vec<u8>> {
    let mut command = p2pinst_command::clean("xz");
    command.arg("-dc").arg(file);
    let said =
        p2pinst_command::ask_within(command, &[], MODULE_MAX, DECOMPRESS).map_err(|source| {
            io::Error::new(source.kind(), format!("xz: {source} (package xz-utils)"))
        })?;
    if said.success {
        Ok(said.stdout)
    } else {
        Err(io::Error::other(format!("xz: {}", said.stderr)))
    }
}

/// `modules.dep`: each module, and all that must be there before it, the first needed last.
fn dependency_table(taken: &BTreeMap<String, Module>) -> Result<String, ModuleError> {
    let mut table = String::new();
    for (name, module) in taken {
        let mut order = Vec::new();
        before(name, taken, &mut order, &mut BTreeSet::new())?;
        table.push_str(&module.path);
        table.push(':');
        for needed in order.iter().rev().filter(|needed| *needed != name) {
            if let Some(needed) = taken.get(*needed) {
                table.push(' ');
                table.push_str(&needed.path);
            }
        }
        table.push('\n');
    }
    Ok(table)
}

/// Appends what must be loaded before a module, and the module.
fn before<'a>(
    name: &'a str,
    taken: &'a BTreeMap<String, Module>,
    order: &mut Vec<&'a str>,
    under: &mut BTreeSet<&'a str>,
) -> Result<(), ModuleError> {
    let Some(module) = taken.get(name).filter(|_| !order.contains(&name)) else {
        return Ok(());
    };
    if !under.insert(name) {
        return Err(ModuleError::Circle(name.to_owned()));
    }
    for needed in &module.depends {
        before(needed, taken, order, under)?;
    }
    under.remove(name);
    order.push(name);
    Ok(())
}

fn alias_table(taken: &BTreeMap<String, Module>) -> String {
    let mut lines: Vec<String> = taken
        .iter()
        .flat_map(|(name, module)| {
            module.aliases.iter().map(move |a| format!("alias {a} {name}\n"))
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &[&str], aliases: &[&str]) -> Module {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Module {
            path: format!("kernel/{}.ko", depends.len()),
            content: vec![],
            depends: owned(depends),
            soft: vec![],
            aliases: owned(aliases),
        }
    }

    #[test]
    fn what_is_needed_first_is_named_last() {
        let taken = BTreeMap::from([
            ("none".to_owned(), module(&[], &["fs-x"])),
            ("one".to_owned(), module(&["none"], &["pci:v*", "a-b"])),
            ("two".to_owned(), module(&["one", "none"], &[])),
        ]);
        let table = dependency_table(&taken).unwrap();
        assert_eq!(
            table,
            "kernel/0.ko:\nkernel/1.ko: kernel/0.ko\nkernel/2.ko: kernel/1.ko kernel/0.ko\n"
        );
        assert_eq!(alias_table(&taken), "alias a-b one\nalias fs-x none\nalias pci:v* one\n");
    }

    #[test]
    fn a_circle_is_an_error() {
        let taken = BTreeMap::from([
            ("a".to_owned(), module(&["b"], &[])),
            ("b".to_owned(), module(&["a"], &[])),
        ]);
        assert!(matches!(dependency_table(&taken), Err(ModuleError::Circle(_))));
    }

    #[test]
    fn names_are_as_the_kernel_has_them() {
        let name = |path| name_of(path).map(|(name, plain)| (name, plain.to_owned()));
        assert_eq!(name("kernel/fs/a-b.ko.xz"), Some(("a_b".into(), "kernel/fs/a-b.ko".into())));
        assert_eq!(name("kernel/fs/a.ko"), Some(("a".into(), "kernel/fs/a.ko".into())));
        assert_eq!(name("kernel/fs/Makefile"), None);
    }

    #[test]
    fn no_kernel_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = take(dir.path(), ["loop"], &mut Archive::default()).unwrap_err();
        assert!(error.to_string().contains("modules.builtin"), "{error}");
    }
}
