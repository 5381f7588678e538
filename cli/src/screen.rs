//! A text that is drawn again and again in one place of a terminal.

use std::io;

/// Draws over what was there; cut to the screen, so that it does not scroll.
pub(crate) fn screen(text: &str, first: bool) -> String {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let most = usize::from(rows).saturating_sub(2).max(3);
    let width = usize::from(columns.max(20));
    let clear = if first { "\x1b[2J" } else { "" };
    let mut drawn = format!("{clear}\x1b[H");
    for line in text.lines().take(most) {
        drawn.extend(line.chars().take(width));
        drawn.push_str("\x1b[K\n");
    }
    if text.lines().count() > most {
        drawn.push_str("…\x1b[K\n");
    }
    drawn.push_str("\x1b[J");
    drawn
}
