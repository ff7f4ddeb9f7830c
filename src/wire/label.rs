//! Labels.

use crate::core::label::{Labels, check_label};
use crate::core::limits;
use crate::schema::types_capnp::label;

use super::{WireError, text};

/// Writes labels into a list of as many.
pub fn write(labels: &Labels, mut to: capnp::struct_list::Builder<'_, label::Owned>) {
    for (n, (key, value)) in (0..).zip(labels) {
        let mut label = to.reborrow().get(n);
        label.set_key(key);
        label.set_value(value);
    }
}

/// Reads the labels that somebody gives; the last of a key counts.
pub fn read(from: capnp::struct_list::Reader<'_, label::Owned>) -> Result<Labels, WireError> {
    read_up_to(from, limits::LABELS_MAX)
}

/// Reads the labels that a worker has: its own, those that its token bound to it, and its name.
pub fn read_all(from: capnp::struct_list::Reader<'_, label::Owned>) -> Result<Labels, WireError> {
    read_up_to(from, 2 * limits::LABELS_MAX + 1)
}

fn read_up_to(from: capnp::struct_list::Reader<'_, label::Owned>, max: usize) -> Result<Labels, WireError> {
    text::check_len(from.len(), "the list of labels", max)?;
    let read_one = |label: label::Reader<'_>| {
        let key = text::read(label.get_key(), "a label's key", limits::LABEL_KEY_BYTES_MAX)?;
        let value = text::read(label.get_value(), "a label's value", limits::LABEL_VALUE_BYTES_MAX)?;
        check_label(&key, &value).map_err(WireError::Invalid)?;
        Ok((key, value))
    };
    from.iter().map(read_one).collect()
}
