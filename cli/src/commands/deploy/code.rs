//! The code that an order wants typed at the console of each of its machines: asked for, or read from a file.

use std::path::PathBuf;

use p2pinst_trust::console;
use p2pinst_types::record::ConsoleCode;

use crate::error::CliError;

/// The longest code that is read from a file.
const CODE_MAX: u64 = 1024;

/// Where the code comes from.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::commands) struct CodeArgs {
    /// A scout gets its certificate only when a code is typed at the machine's console; you are asked for it
    #[arg(long, conflicts_with = "code_file")]
    code: bool,
    /// The same, in a file
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
}

impl CodeArgs {
    /// Whether one is wanted.
    pub(in crate::commands) fn is_given(&self) -> bool {
        self.code || self.code_file.is_some()
    }

    /// What the order says of it, if one is wanted.
    pub(in crate::commands) fn read(&self) -> Result<Option<ConsoleCode>, CliError> {
        let text = match (self.code, &self.code_file) {
            (true, _) => {
                rpassword::prompt_password("Code for the machines' consoles: ").map_err(|e| {
                    CliError::failed(format!("cannot ask for the code: {e}")).hint(
                        "without a terminal, put it into a file that only you can read: --code-file",
                    )
                })?
            }
            (false, Some(file)) => {
                let bytes = p2pinst_files::read_private(file, CODE_MAX)?;
                String::from_utf8(bytes)
                    .map_err(|_| CliError::failed("the code is no text in UTF-8"))?
            }
            (false, None) => return Ok(None),
        };
        let code = text.trim();
        let most = p2pinst_types::limits::HARDWARE_TEXT;
        if code.len() > most {
            return Err(CliError::usage(format!("a code has {most} bytes at most")));
        }
        console::demand(code).map(Some).map_err(|e| CliError::usage(e.to_string()))
    }
}
