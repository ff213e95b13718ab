//! Metadata values: views of their encoding, so that a vocabulary of 262,144 strings costs nothing until it is read.
//!
//! One type serves reader and writer: a [`Value`] borrowed from a file can be written into another as it is, and an
//! [`ArrayBuf`] makes the encoding of a new array.

use super::GgufError;

/// Arrays within arrays deeper than this are refused; files in use have none.
pub const MAX_ARRAY_DEPTH: usize = 4;

/// The type of a metadata value; the discriminant is its id in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// Every type, in the order of the ids.
    pub const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    fn from_id(id: u32) -> Option<ValueType> {
        ValueType::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The type's name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::String => "string",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// Bytes of one value in the file; for strings and arrays the least there can be.
    const fn min_bytes(self) -> usize {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 => 8,
            ValueType::String => 8,
            ValueType::Array => 4 + 8,
        }
    }

    const fn has_fixed_size(self) -> bool {
        !matches!(self, ValueType::String | ValueType::Array)
    }
}

/// A metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// This value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// An integer of any type that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U64(v) => Some(v),
            _ => self.as_i64().and_then(|v| u64::try_from(v).ok()),
        }
    }

    /// An integer of any type that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => i64::try_from(v).ok(),
            Value::I64(v) => Some(v),
            _ => None,
        }
    }

    /// A float of either width, or an integer.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            Value::U64(v) => Some(v as f64),
            _ => self.as_i64().map(|v| v as f64),
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(v) = *self { Some(v) } else { None }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&'a str> {
        if let Value::String(v) = *self { Some(v) } else { None }
    }

    /// An array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        if let Value::Array(v) = *self { Some(v) } else { None }
    }

    /// The value of type `value_type` that `encoded` holds, exactly, and that has been checked before: unlike
    /// [`Cursor::value`] this does not walk an array.
    pub(super) fn decode_checked(value_type: ValueType, encoded: &'a [u8]) -> Value<'a> {
        const CHECKED: &str = "values are checked when the file is opened";
        let mut cursor = Cursor::new(encoded);
        if value_type != ValueType::Array {
            return cursor.value(value_type, 0).expect(CHECKED);
        }
        let element_type = cursor.value_type().expect(CHECKED);
        let len = cursor.u64(CHECKED).ok().and_then(|len| usize::try_from(len).ok()).expect(CHECKED);
        Value::Array(Array { element_type, len, encoded: &encoded[cursor.pos()..] })
    }

    /// Appends the encoding of this value, without its type.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Value::U8(v) => out.push(v),
            Value::I8(v) => out.extend(v.to_le_bytes()),
            Value::U16(v) => out.extend(v.to_le_bytes()),
            Value::I16(v) => out.extend(v.to_le_bytes()),
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::F32(v) => out.extend(v.to_le_bytes()),
            Value::Bool(v) => out.push(v.into()),
            Value::String(v) => {
                out.extend((v.len() as u64).to_le_bytes());
                out.extend(v.as_bytes());
            }
            Value::Array(v) => {
                out.extend((v.element_type as u32).to_le_bytes());
                out.extend((v.len as u64).to_le_bytes());
                out.extend(v.encoded);
            }
            Value::U64(v) => out.extend(v.to_le_bytes()),
            Value::I64(v) => out.extend(v.to_le_bytes()),
            Value::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

/// An array of metadata values: a view of its encoding.
///
/// Lengths have been checked when the file was opened; that strings are UTF-8 is checked as they are read, because
/// most never are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Array<'a> {
    element_type: ValueType,
    len: usize,
    /// The elements one after the other, exactly.
    encoded: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of every element.
    pub fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, of whatever type.
    ///
    /// # Errors
    /// An element is [`GgufError::InvalidUtf8`] where a string is not; its offset is that within the array.
    pub fn values(&self) -> impl Iterator<Item = Result<Value<'a>, GgufError>> + use<'a> {
        let mut cursor = Cursor::new(self.encoded);
        let element_type = self.element_type;
        // Depth 0 is right: the whole array has been walked when it was made, within the bound.
        (0..self.len).map(move |_| cursor.value(element_type, 0))
    }

    /// The elements of an array of strings; `None` for any other.
    ///
    /// # Errors
    /// As [`Array::values`].
    pub fn strings(&self) -> Option<impl Iterator<Item = Result<&'a str, GgufError>> + use<'a>> {
        let mut cursor = Cursor::new(self.encoded);
        (self.element_type == ValueType::String)
            .then(|| (0..self.len).map(move |_| cursor.string("a string")))
    }

    /// The elements of an array of floats of either width; `None` for any other.
    pub fn floats(&self) -> Option<impl Iterator<Item = f64> + use<'a>> {
        matches!(self.element_type, ValueType::F32 | ValueType::F64)
            .then(|| self.values().map(|v| v.ok().and_then(|v| v.as_f64()).expect("checked when opened")))
    }

    /// The elements of an array of integers of at most 32 bits, or signed ones of 64; `None` for any other.
    pub fn integers(&self) -> Option<impl Iterator<Item = i64> + use<'a>> {
        matches!(
            self.element_type,
            ValueType::U8
                | ValueType::I8
                | ValueType::U16
                | ValueType::I16
                | ValueType::U32
                | ValueType::I32
                | ValueType::I64
        )
        .then(|| self.values().map(|v| v.ok().and_then(|v| v.as_i64()).expect("checked when opened")))
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Array({} x {})", self.len, self.element_type.name())
    }
}

/// The encoding of a new array, for the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayBuf {
    element_type: ValueType,
    len: usize,
    encoded: Vec<u8>,
}

impl ArrayBuf {
    /// An array of `elements`, all of type `element_type`.
    ///
    /// # Panics
    /// When an element is of another type.
    pub fn new<'a>(element_type: ValueType, elements: impl IntoIterator<Item = Value<'a>>) -> ArrayBuf {
        let mut array = ArrayBuf { element_type, len: 0, encoded: Vec::new() };
        for element in elements {
            assert_eq!(element.value_type(), element_type, "all elements of an array have one type");
            element.encode(&mut array.encoded);
            array.len += 1;
        }
        array
    }

    /// An array of strings.
    pub fn strings<'a>(elements: impl IntoIterator<Item = &'a str>) -> ArrayBuf {
        ArrayBuf::new(ValueType::String, elements.into_iter().map(Value::String))
    }

    /// An array of floats.
    pub fn f32s(elements: impl IntoIterator<Item = f32>) -> ArrayBuf {
        ArrayBuf::new(ValueType::F32, elements.into_iter().map(Value::F32))
    }

    /// An array of integers.
    pub fn i32s(elements: impl IntoIterator<Item = i32>) -> ArrayBuf {
        ArrayBuf::new(ValueType::I32, elements.into_iter().map(Value::I32))
    }

    /// A view of it.
    pub fn view(&self) -> Array<'_> {
        Array { element_type: self.element_type, len: self.len, encoded: &self.encoded }
    }

    /// A value that views it.
    pub fn value(&self) -> Value<'_> {
        Value::Array(self.view())
    }
}

/// Reads encodings front to back. Never allocates.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, pos: 0 }
    }

    /// Bytes read so far.
    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    /// Bytes left.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.pos
    }

    fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], GgufError> {
        if n > self.remaining() {
            return Err(GgufError::Truncated { offset: self.pos, what });
        }
        let taken = &self.bytes[self.pos..self.pos + n];
        self.pos += n;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut taken = [0; N];
        taken.copy_from_slice(self.take(N, what)?);
        Ok(taken)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.take_array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.take_array(what).map(u64::from_le_bytes)
    }

    fn string_bytes(&mut self, what: &'static str) -> Result<&'a [u8], GgufError> {
        let offset = self.pos;
        let len = self.u64(what)?;
        match usize::try_from(len) {
            Ok(len) if len <= self.remaining() => self.take(len, what),
            _ => Err(GgufError::StringTooLong { offset, len, what }),
        }
    }

    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        let offset = self.pos;
        let bytes = self.string_bytes(what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::InvalidUtf8 { offset, what })
    }

    pub(super) fn value_type(&mut self) -> Result<ValueType, GgufError> {
        let offset = self.pos;
        let id = self.u32("a value's type")?;
        ValueType::from_id(id).ok_or(GgufError::UnknownValueType { offset, id })
    }

    /// A value of type `value_type`, inside of `depth` arrays.
    pub(super) fn value(&mut self, value_type: ValueType, depth: usize) -> Result<Value<'a>, GgufError> {
        const WHAT: &str = "a metadata value";
        Ok(match value_type {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.take_array(WHAT)?)),
            ValueType::Bool => match self.take_array(WHAT)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [found] => return Err(GgufError::InvalidBool { offset: self.pos - 1, found }),
            },
            ValueType::String => Value::String(self.string(WHAT)?),
            ValueType::Array => Value::Array(self.array(depth)?),
        })
    }

    /// An array inside of `depth` others. Walks it to find its end, keeping nothing.
    fn array(&mut self, depth: usize) -> Result<Array<'a>, GgufError> {
        let offset = self.pos;
        if depth >= MAX_ARRAY_DEPTH {
            return Err(GgufError::NestedTooDeep { offset });
        }
        let element_type = self.value_type()?;
        let len = self.u64("an array's length")?;
        // Checked before the walk, so that its number of steps is bounded by the file's size.
        let len = usize::try_from(len)
            .ok()
            .filter(|len| len.checked_mul(element_type.min_bytes()).is_some_and(|n| n <= self.remaining()))
            .ok_or(GgufError::ArrayTooLong { offset, len })?;
        let start = self.pos;
        match element_type {
            ValueType::String => {
                for _ in 0..len {
                    self.string_bytes("a string of an array")?;
                }
            }
            ValueType::Array => {
                for _ in 0..len {
                    self.array(depth + 1)?;
                }
            }
            ValueType::Bool => {
                for _ in 0..len {
                    self.value(ValueType::Bool, depth)?;
                }
            }
            _ => {
                debug_assert!(element_type.has_fixed_size());
                self.take(len * element_type.min_bytes(), "an array")?;
            }
        }
        Ok(Array { element_type, len, encoded: &self.bytes[start..self.pos] })
    }
}
