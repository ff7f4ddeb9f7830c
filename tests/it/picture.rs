//! A screen as a picture: SVG, with the colours and the weight of each letter, in a window's frame.
//!
//! Each row is one text, so that what is a letter longer another time moves only what stands behind it.

use std::fmt::Write;

use vt100::{Cell, Color, Screen};

/// A cell, in pixels: what the usual monospaced fonts have at this size.
const CELL: (f64, f64) = (8.43, 19.0);
const FONT: u32 = 14;
/// Around the text, and the bar above it.
const MARGIN: f64 = 16.0;
const BAR: f64 = 36.0;

const GROUND: &str = "#1b1e25";
const LETTERS: &str = "#d7dae0";
/// The sixteen colours of a terminal.
const COLOURS: [&str; 16] = [
    "#3f4451", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d7dae0", //
    "#7f848e", "#ff7b86", "#b1e18b", "#efb074", "#67cdff", "#e48bff", "#63d4e0", "#ffffff",
];

/// Draws what a window of so many rows shows at the end: the last rows down to the cursor's.
pub fn draw(screen: &Screen, rows: u16, title: &str) -> String {
    let columns = screen.size().1.get();
    let end = screen.cursor_position().0 + 1;
    let shown = end.saturating_sub(rows)..end;
    let (width, height) =
        (f64::from(columns) * CELL.0 + 2.0 * MARGIN, shown.len() as f64 * CELL.1 + BAR + 2.0 * MARGIN);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}">
<style>text {{ font: {FONT}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: {LETTERS}; white-space: pre }}</style>
<rect width="100%" height="100%" rx="9" fill="{GROUND}"/>
<circle cx="20" cy="18" r="6" fill="#ff5f57"/><circle cx="40" cy="18" r="6" fill="#febc2e"/><circle cx="60" cy="18" r="6" fill="#28c840"/>
<text x="50%" y="23" text-anchor="middle" style="fill:#8a919e">{title}</text>
"##
    );
    for (n, row) in shown.enumerate() {
        let y = BAR + MARGIN + n as f64 * CELL.1 + f64::from(FONT);
        let line = row_of(screen, row, columns);
        writeln!(svg, r#"<text x="{MARGIN}" y="{y:.0}" xml:space="preserve">{line}</text>"#).unwrap();
    }
    svg.push_str("</svg>\n");
    svg
}

/// A row's letters, those of one look together.
fn row_of(screen: &Screen, row: u16, columns: u16) -> String {
    let mut runs: Vec<(String, String)> = Vec::new();
    for column in 0..columns {
        let look = screen.cell(row, column).map(look).unwrap_or_default();
        let text = text_of(screen, row, column);
        match runs.last_mut() {
            // A space looks the same in every colour.
            Some((known, run)) if *known == look || text == " " => run.push_str(&text),
            _ => runs.push((look, text)),
        }
    }
    if let Some((_, last)) = runs.last_mut() {
        last.truncate(last.trim_end().len());
    }
    let run = |(look, text): &(String, String)| match look.as_str() {
        "" => escaped(text),
        look => format!(r#"<tspan style="{look}">{}</tspan>"#, escaped(text)),
    };
    runs.iter().filter(|(_, text)| !text.is_empty()).map(run).collect()
}

fn text_of(screen: &Screen, row: u16, column: u16) -> String {
    let cell = screen.cell(row, column).filter(|cell| !cell.is_wide_continuation());
    match cell.map(Cell::contents) {
        None | Some("") => " ".to_owned(),
        Some(text) => text.to_owned(),
    }
}

fn look(cell: &Cell) -> String {
    let mut look = match cell.fgcolor() {
        Color::Default => String::new(),
        Color::Idx(number @ 0..16) => format!("fill:{};", COLOURS[usize::from(number)]),
        Color::Idx(number) => panic!("colour {number} is not one of the sixteen: draw it"),
        Color::Rgb(red, green, blue) => format!("fill:#{red:02x}{green:02x}{blue:02x};"),
    };
    for (is_so, style) in [
        (cell.bold(), "font-weight:bold;"),
        (cell.dim(), "fill-opacity:.6;"),
        (cell.italic(), "font-style:italic;"),
        (cell.underline(), "text-decoration:underline;"),
    ] {
        look.push_str(if is_so { style } else { "" });
    }
    look.trim_end_matches(';').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
