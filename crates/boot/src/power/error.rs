//! What goes wrong with controllers, by what can be done about it. Reads no clock and keeps no state.

use std::fmt;
use std::io;

use thiserror::Error;

/// What kind of failure it is, and so whether asking again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The controller refuses the user, the password or their rights, or is not the one it was. Asking again locks accounts.
    Auth,
    /// The controller cannot do this, or is not what its line says.
    Config,
    /// A program on this machine is missing or does not work.
    Tool,
    /// No answer.
    Conn,
    /// The controller says that it is busy.
    Busy,
    /// The controller refuses or fails at the action.
    Action,
    /// The machine is in the wanted state already: no failure.
    AlreadyThere,
}

impl Class {
    /// Whether asking again after a while may succeed.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Conn | Self::Busy | Self::Action)
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Auth => "check the user, the password and the user's role on the controller",
            Self::Config => "check the controller's line (p2pinst machine set-power)",
            Self::Tool => "install the program on the nodes with the power role",
            Self::Conn => {
                "check that this node reaches the controller's network, and that it is switched on"
            }
            Self::Busy => "try again when the controller has finished what it does",
            Self::Action => "look at the controller's own log; some need a restart of their own",
            Self::AlreadyThere => "nothing is to be done",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auth => "auth",
            Self::Config => "config",
            Self::Tool => "tool",
            Self::Conn => "conn",
            Self::Busy => "busy",
            Self::Action => "action",
            Self::AlreadyThere => "already-there",
        })
    }
}

/// What was attempted on which controller, why it failed, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot {attempt} ({controller}): {why}; {advice}")]
pub struct PowerError {
    /// What can be done about it.
    pub class: Class,
    /// What was attempted: `switch on the machine`.
    pub attempt: String,
    /// The controller's line.
    pub controller: String,
    /// Why it failed: what the controller or the tool said, as text for people.
    pub why: String,
    /// What to do.
    pub advice: String,
}

/// A failure before it is known what was attempted where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) class: Class,
    pub(crate) why: String,
    pub(crate) advice: Option<&'static str>,
}

/// The longest reason that is passed on, in characters: a few lines of a tool.
const WHY: usize = 400;

impl Fault {
    pub(crate) fn new(class: Class, why: impl AsRef<[u8]>) -> Self {
        let text = p2pinst_command::text(why.as_ref());
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { class, why: line.chars().take(WHY).collect(), advice: None }
    }

    pub(crate) fn advising(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    /// Of a program that could not be run.
    pub(crate) fn running(program: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::new(Class::Conn, format!("{program}: {error}")),
            io::ErrorKind::NotFound => {
                Self::new(Class::Tool, format!("{program} is not on this machine"))
            }
            _ => Self::new(Class::Tool, format!("{program}: {error}")),
        }
    }

    /// With what was attempted, on which controller.
    pub(crate) fn at(self, attempt: impl Into<String>, controller: &str) -> PowerError {
        PowerError {
            class: self.class,
            attempt: attempt.into(),
            controller: controller.to_owned(),
            why: self.why,
            advice: self.advice.unwrap_or(self.class.advice()).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_where_why_and_what_to_do() {
        let error = Fault::new(Class::Auth, "RAKP 2 HMAC\u{7} is\n invalid")
            .at("read the power state", "ipmi://10.0.0.5");
        assert_eq!(
            error.to_string(),
            "cannot read the power state (ipmi://10.0.0.5): RAKP 2 HMAC is invalid; \
             check the user, the password and the user's role on the controller"
        );
        assert!(!Class::Auth.is_transient() && Class::Busy.is_transient());
        assert!(Fault::new(Class::Conn, "x".repeat(5000)).why.len() <= WHY);
    }
}
