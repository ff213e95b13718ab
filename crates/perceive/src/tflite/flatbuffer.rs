//! FlatBuffers, as much of the format as TFLite files need, with every offset checked.
//!
//! Source: "FlatBuffer Internals" (flatbuffers.dev/internals). A table begins with the signed distance back to its
//! vtable, which lists for each field where in the table it is; strings, vectors and tables are reached by unsigned
//! offsets, so always further on in the file: there are no cycles. But several offsets may lead to one place, so that a
//! small file could make a reader walk far; [`Reader::spend`] bounds the walk by the length of the file.

use std::cell::Cell;
use std::ops::Range;

/// Why bytes are no such structure.
pub type Damage = String;

/// A file, and how much of it may still be walked.
pub struct Reader<'a> {
    bytes: &'a [u8],
    budget: Cell<usize>,
}

impl<'a> Reader<'a> {
    /// Writers let equal vectors share one place, so somewhat more than each byte once may be read.
    const READS_PER_BYTE: usize = 8;

    /// A reader of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, budget: Cell::new(bytes.len().saturating_mul(Reader::READS_PER_BYTE)) }
    }

    /// The table that the file begins with, if its identifier is this.
    pub fn root(&'a self, identifier: &[u8; 4]) -> Result<Table<'a>, Damage> {
        if self.bytes.get(4..8) != Some(identifier) {
            return Err(format!("it does not begin as a {} file", String::from_utf8_lossy(identifier)));
        }
        Table::at(self, self.offset(0)?)
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Damage> {
        let bytes = at.checked_add(N).and_then(|end| self.bytes.get(at..end));
        let bytes = bytes.ok_or_else(|| format!("it ends before byte {at}"))?;
        Ok(bytes.try_into().expect("of this length"))
    }

    /// Where the offset at `at` leads.
    fn offset(&self, at: usize) -> Result<usize, Damage> {
        let offset = u32::from_le_bytes(self.array(at)?) as usize;
        match at.checked_add(offset) {
            Some(to) if offset > 0 && to < self.bytes.len() => Ok(to),
            _ => Err(format!("the offset at byte {at} leads out of the file")),
        }
    }

    /// Counts `n` bytes as read.
    fn spend(&self, n: usize) -> Result<(), Damage> {
        let left = self.budget.get().checked_sub(n);
        self.budget.set(left.ok_or("its parts are shared so often that reading them would not end soon")?);
        Ok(())
    }
}

/// A table: fields by number, each of which may be absent.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    reader: &'a Reader<'a>,
    at: usize,
    len: usize,
    vtable: usize,
    vtable_len: usize,
}

impl<'a> Table<'a> {
    /// Bytes before the first field's entry: lengths of vtable and table.
    const VTABLE_HEAD: usize = 4;

    fn at(reader: &'a Reader<'a>, at: usize) -> Result<Table<'a>, Damage> {
        let back = i64::from(i32::from_le_bytes(reader.array(at)?));
        let vtable =
            usize::try_from(at as i64 - back).map_err(|_| format!("the table at byte {at} has no vtable"))?;
        let vtable_len = usize::from(u16::from_le_bytes(reader.array(vtable)?));
        let len = usize::from(u16::from_le_bytes(reader.array(vtable.saturating_add(2))?));
        let fits = |at: usize, len: usize| at.checked_add(len).is_some_and(|end| end <= reader.bytes.len());
        if vtable_len < Table::VTABLE_HEAD || !fits(vtable, vtable_len) || len < 4 || !fits(at, len) {
            return Err(format!("the table at byte {at} has an impossible vtable"));
        }
        reader.spend(vtable_len)?;
        Ok(Table { reader, at, len, vtable, vtable_len })
    }

    /// Where the field is, if it is there.
    fn field(&self, number: usize, size: usize) -> Result<Option<usize>, Damage> {
        let entry = Table::VTABLE_HEAD + 2 * number;
        if entry + 2 > self.vtable_len {
            return Ok(None);
        }
        let offset = usize::from(u16::from_le_bytes(self.reader.array(self.vtable + entry)?));
        match offset {
            0 => Ok(None),
            _ if offset + size <= self.len => Ok(Some(self.at + offset)),
            _ => Err(format!("field {number} of the table at byte {} lies outside it", self.at)),
        }
    }

    fn scalar<const N: usize>(&self, number: usize) -> Result<Option<[u8; N]>, Damage> {
        self.field(number, N)?.map(|at| self.reader.array(at)).transpose()
    }

    /// A byte, or the default.
    pub fn u8(&self, number: usize, default: u8) -> Result<u8, Damage> {
        Ok(self.scalar::<1>(number)?.map_or(default, |[byte]| byte))
    }

    /// A truth value; absent is false.
    pub fn bool(&self, number: usize) -> Result<bool, Damage> {
        Ok(self.u8(number, 0)? != 0)
    }

    /// A signed number, or the default.
    pub fn i32(&self, number: usize, default: i32) -> Result<i32, Damage> {
        Ok(self.scalar(number)?.map_or(default, i32::from_le_bytes))
    }

    /// An unsigned number, or the default.
    pub fn u32(&self, number: usize, default: u32) -> Result<u32, Damage> {
        Ok(self.scalar(number)?.map_or(default, u32::from_le_bytes))
    }

    /// A long unsigned number, or the default.
    pub fn u64(&self, number: usize, default: u64) -> Result<u64, Damage> {
        Ok(self.scalar(number)?.map_or(default, u64::from_le_bytes))
    }

    /// A float, or the default.
    pub fn f32(&self, number: usize, default: f32) -> Result<f32, Damage> {
        Ok(self.scalar(number)?.map_or(default, f32::from_le_bytes))
    }

    /// Another table.
    pub fn table(&self, number: usize) -> Result<Option<Table<'a>>, Damage> {
        let at = self.field(number, 4)?;
        at.map(|at| Table::at(self.reader, self.reader.offset(at)?)).transpose()
    }

    /// Whether the field is there.
    pub fn has(&self, number: usize) -> Result<bool, Damage> {
        Ok(self.field(number, 0)?.is_some())
    }

    /// A vector of elements of `N` bytes; absent is empty.
    pub fn vector<const N: usize>(&self, number: usize) -> Result<Vector<'a, N>, Damage> {
        let reader = self.reader;
        let Some(at) = self.field(number, 4)? else { return Ok(Vector { reader, at: 0, len: 0 }) };
        let at = reader.offset(at)?;
        let len = u32::from_le_bytes(reader.array(at)?) as usize;
        let at = at + 4;
        let end = len.checked_mul(N).and_then(|bytes| at.checked_add(bytes));
        if end.is_none_or(|end| end > reader.bytes.len()) {
            return Err(format!("the vector at byte {at} is longer than the file"));
        }
        Ok(Vector { reader, at, len })
    }

    /// Text; what is not UTF-8 is replaced. Absent is empty.
    pub fn string(&self, number: usize) -> Result<String, Damage> {
        let bytes = self.vector::<1>(number)?;
        self.reader.spend(bytes.len)?;
        Ok(String::from_utf8_lossy(&self.reader.bytes[bytes.range()]).into_owned())
    }
}

/// A vector of elements of `N` bytes. It lies within the file.
#[derive(Clone, Copy)]
pub struct Vector<'a, const N: usize> {
    reader: &'a Reader<'a>,
    at: usize,
    len: usize,
}

impl<'a, const N: usize> Vector<'a, N> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its bytes in the file.
    pub fn range(&self) -> Range<usize> {
        self.at..self.at + self.len * N
    }

    /// Its bytes, counted as read.
    pub fn spent(&self) -> Result<&'a [u8], Damage> {
        self.reader.spend(self.len * N)?;
        Ok(&self.reader.bytes[self.range()])
    }

    /// All elements.
    pub fn elements(&self) -> Result<Vec<[u8; N]>, Damage> {
        Ok(self.spent()?.as_chunks().0.to_vec())
    }
}

impl<'a> Vector<'a, 4> {
    /// All elements, as offsets of tables.
    pub fn tables(&self) -> Result<Vec<Table<'a>>, Damage> {
        self.reader.spend(self.len * 4)?;
        let at = |idx: usize| self.reader.offset(self.at + 4 * idx);
        (0..self.len).map(|idx| Table::at(self.reader, at(idx)?)).collect()
    }

    /// All elements, as signed numbers.
    pub fn i32s(&self) -> Result<Vec<i32>, Damage> {
        Ok(self.elements()?.into_iter().map(i32::from_le_bytes).collect())
    }

    /// All elements, as floats.
    pub fn f32s(&self) -> Result<Vec<f32>, Damage> {
        Ok(self.elements()?.into_iter().map(f32::from_le_bytes).collect())
    }
}
