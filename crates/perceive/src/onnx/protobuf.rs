//! Protocol Buffers' wire format, as much of it as ONNX files need.
//!
//! Source: "Encoding" (protobuf.dev/programming-guides/encoding). A message is a row of fields, each a number with a value:
//! an integer of variable length, four or eight bytes, or a length and as many bytes, which are text, an array or another
//! message. We read and write it ourselves, as we do FlatBuffers: generated code would copy all weights and bring the
//! generator along, and this is a hundred lines. Whatever is read lies within the message around it, so a file can be no
//! deeper than it is long; [`MAX_DEPTH`] bounds the recursion of those who walk it.

/// Graphs within graphs.
pub const MAX_DEPTH: usize = 8;

/// Why bytes are no such message.
pub type Damage = String;

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// An integer, or a truth value.
    Varint(u64),
    /// Eight bytes.
    Fixed64([u8; 8]),
    /// Text, an array, or a message.
    Bytes(&'a [u8]),
    /// Four bytes.
    Fixed32([u8; 4]),
}

impl<'a> Value<'a> {
    /// As text, an array or a message.
    pub fn bytes(self) -> Result<&'a [u8], Damage> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(format!("a number ({other:?}) where bytes should be")),
        }
    }

    /// As text.
    pub fn text(self) -> Result<String, Damage> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    /// As an integer.
    pub fn int(self) -> Result<i64, Damage> {
        match self {
            Value::Varint(value) => Ok(value as i64),
            other => Err(format!("{other:?} where an integer should be")),
        }
    }

    /// As a float.
    pub fn float(self) -> Result<f32, Damage> {
        match self {
            Value::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            other => Err(format!("{other:?} where a float should be")),
        }
    }

    /// Appends one integer, or an array of them.
    pub fn ints_into(self, ints: &mut Vec<i64>) -> Result<(), Damage> {
        match self {
            Value::Bytes(mut rest) => {
                while !rest.is_empty() {
                    ints.push(varint(&mut rest)? as i64);
                }
            }
            other => ints.push(other.int()?),
        }
        Ok(())
    }

    /// Appends one float, or an array of them.
    pub fn floats_into(self, floats: &mut Vec<f32>) -> Result<(), Damage> {
        match self {
            Value::Bytes(bytes) => {
                let (all, rest) = bytes.as_chunks();
                if !rest.is_empty() {
                    return Err("an array of floats ends within one".into());
                }
                floats.extend(all.iter().map(|bytes| f32::from_le_bytes(*bytes)));
            }
            other => floats.push(other.float()?),
        }
        Ok(())
    }
}

/// All fields of a message, in order: number and value.
pub fn fields(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Damage> {
    let mut rest = message;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0);
        let number = number.ok_or("a field without a number")?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut rest)?),
            1 => Value::Fixed64(array(&mut rest)?),
            2 => {
                let len = usize::try_from(varint(&mut rest)?).ok().filter(|len| *len <= rest.len());
                let len = len.ok_or("a field is longer than what it is in")?;
                let (bytes, after) = rest.split_at(len);
                rest = after;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(array(&mut rest)?),
            other => return Err(format!("a field of kind {other}")),
        };
        fields.push((number, value));
    }
    Ok(fields)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Damage> {
    let (bytes, after) = rest.split_first_chunk().ok_or("it ends within a number")?;
    *rest = after;
    Ok(*bytes)
}

/// Seven bits to a byte, the lowest first; the eighth says that more follow.
fn varint(rest: &mut &[u8]) -> Result<u64, Damage> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = array(rest)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("an integer of more than 64 bits".into())
}

/// A message in the making: fields in the order in which they are added.
#[derive(Clone, Debug, Default)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// With an integer, or a truth value.
    pub fn int(mut self, number: u32, value: i64) -> Message {
        self.key(number, 0);
        self.varint(value as u64);
        self
    }

    /// With a float.
    pub fn float(mut self, number: u32, value: f32) -> Message {
        self.key(number, 5);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// With bytes or a text.
    pub fn bytes(mut self, number: u32, bytes: impl AsRef<[u8]>) -> Message {
        self.key(number, 2);
        self.varint(bytes.as_ref().len() as u64);
        self.bytes.extend(bytes.as_ref());
        self
    }

    /// With another message.
    pub fn message(self, number: u32, part: &Message) -> Message {
        self.bytes(number, &part.bytes)
    }

    /// With an array of integers.
    pub fn ints(self, number: u32, values: &[i64]) -> Message {
        let mut packed = Message::default();
        values.iter().for_each(|value| packed.varint(*value as u64));
        self.message(number, &packed)
    }

    /// As it stands in a file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn key(&mut self, number: u32, kind: u64) {
        self.varint(u64::from(number) << 3 | kind);
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let part = Message::default().int(1, -1);
        let written = Message::default().int(1, 150).bytes(2, "ab").float(3, 1.0).message(4, &part);
        let bytes = written.ints(5, &[1, -1, 300]).into_bytes();
        let fields = fields(&bytes).unwrap();
        assert_eq!(fields[0], (1, Value::Varint(150)));
        assert_eq!((fields[1].0, fields[1].1.text().unwrap()), (2, "ab".to_owned()));
        assert_eq!(fields[2].1.float().unwrap(), 1.0);
        let inner = super::fields(fields[3].1.bytes().unwrap()).unwrap();
        assert_eq!(inner[0].1.int().unwrap(), -1);
        let mut ints = Vec::new();
        fields[4].1.ints_into(&mut ints).unwrap();
        assert_eq!(ints, [1, -1, 300]);
    }

    #[test]
    fn fields_are_read() {
        // 1: 150; 2: "ab"; 3: 1.0 in four bytes; 4: eight bytes; 5: [1, -1] packed.
        let mut message = vec![0x08, 0x96, 0x01, 0x12, 2, b'a', b'b', 0x1d, 0, 0, 0x80, 0x3f, 0x21];
        message.extend([7; 8]);
        message.extend([0x2a, 11, 1]);
        message.extend([0xff; 9]);
        message.push(1);
        let fields = fields(&message).unwrap();
        assert_eq!(fields[0], (1, Value::Varint(150)));
        assert_eq!((fields[1].0, fields[1].1.text().unwrap()), (2, "ab".to_owned()));
        assert_eq!(fields[2].1.float().unwrap(), 1.0);
        assert_eq!(fields[3].1, Value::Fixed64([7; 8]));
        let mut ints = Vec::new();
        fields[4].1.ints_into(&mut ints).unwrap();
        assert_eq!(ints, [1, -1]);
    }

    #[test]
    fn damage_is_told() {
        for (message, expected) in [
            (&[0x08][..], "ends within"),
            (&[0x12, 5, 1], "longer"),
            (&[0x0b], "kind 3"),
            (&[0x00, 1], "without a number"),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "64 bits"),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "longer"),
        ] {
            let damage = fields(message).unwrap_err();
            assert!(damage.contains(expected), "{damage}");
        }
    }
}
