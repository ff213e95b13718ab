//! What works element by element, or along one dimension.

use super::super::model::kind;
use super::Writer;
use super::file::Attribute;
use super::values::Layout;
use crate::error::Error;
use crate::graph::{Activation, Binary, Node, TensorId, Unary};

impl Writer<'_> {
    /// Layout and names of operands that are broadcast to a result of `n_dims` dimensions.
    fn operands(&mut self, ids: &[TensorId], n_dims: usize) -> Result<(Layout, Vec<String>), Error> {
        let mut layout = self.layout(ids);
        // What has fewer dimensions can only be moved if it is known.
        let is_still = |id: &TensorId| {
            let tensor = self.tensor(*id);
            tensor.constant.is_none() && tensor.shape.len() != 4 && tensor.n_elements() != 1
        };
        if n_dims != 4 || ids.iter().any(is_still) {
            layout = Layout::Last;
        }
        let mut names = Vec::new();
        for id in ids {
            let tensor = self.tensor(*id);
            let missing = 4usize.saturating_sub(tensor.shape.len());
            let is_short = tensor.constant.is_some() && layout == Layout::First && missing > 0;
            names.push(if is_short && tensor.n_elements() != 1 && tensor.quantization.is_none() {
                let dims = [&vec![1; missing], tensor.shape.as_slice()].concat();
                self.constant(*id, &dims, &layout.order(4))?
            } else if tensor.shape.len() == 4 {
                self.floats(*id, layout)?
            } else {
                self.floats(*id, Layout::Last)?
            });
        }
        Ok((layout, names))
    }

    /// A sum of two tensors.
    pub fn add(&mut self, node: &Node, activation: Activation) -> Result<(), Error> {
        let output = node.outputs[0];
        let ids = [self.input(node, 0)?, self.input(node, 1)?];
        let (layout, names) = self.operands(&ids, self.tensor(output).shape.len())?;
        let sum = self.step("Add", &[&names[0], &names[1]], vec![]);
        let result = self.activated(sum, activation, output);
        self.give(output, layout, result)
    }

    /// A function of two numbers.
    pub fn binary(&mut self, node: &Node, function: Binary) -> Result<(), Error> {
        let output = node.outputs[0];
        let ids = [self.input(node, 0)?, self.input(node, 1)?];
        if function == Binary::PRelu && self.tensor(ids[0]).shape != self.tensor(output).shape {
            return Err(self.unsupported("slopes of more dimensions than what they belong to"));
        }
        let (layout, names) = self.operands(&ids, self.tensor(output).shape.len())?;
        let (op, is_truth) = match function {
            Binary::Add => ("Add", false),
            Binary::Sub => ("Sub", false),
            Binary::Mul => ("Mul", false),
            Binary::Div => ("Div", false),
            Binary::Pow => ("Pow", false),
            Binary::Min => ("Min", false),
            Binary::Max => ("Max", false),
            Binary::PRelu => ("PRelu", false),
            Binary::Equal | Binary::NotEqual => ("Equal", true),
            Binary::Less => ("Less", true),
            Binary::LessOrEqual => ("LessOrEqual", true),
            Binary::Greater => ("Greater", true),
            Binary::GreaterOrEqual => ("GreaterOrEqual", true),
        };
        let mut result = self.step(op, &[&names[0], &names[1]], vec![]);
        if function == Binary::NotEqual {
            result = self.step("Not", &[&result], vec![]);
        }
        if is_truth {
            result = self.cast(&result, kind::FLOAT);
        }
        self.give(output, layout, result)
    }

    /// Elements of another type, by ONNX's number of it.
    pub fn cast(&mut self, name: &str, kind: i64) -> String {
        self.step("Cast", &[name], vec![Attribute::Int("to", kind)])
    }

    /// Of two tensors, by truth values.
    pub fn select(&mut self, node: &Node) -> Result<(), Error> {
        let output = node.outputs[0];
        let ids = [self.input(node, 0)?, self.input(node, 1)?, self.input(node, 2)?];
        let (layout, names) = self.operands(&ids, self.tensor(output).shape.len())?;
        let truth = self.cast(&names[0], kind::BOOL);
        let result = self.step("Where", &[&truth, &names[1], &names[2]], vec![]);
        self.give(output, layout, result)
    }

    /// A function of one number.
    pub fn unary(&mut self, node: &Node, function: Unary) -> Result<(), Error> {
        let (input, output) = (self.input(node, 0)?, node.outputs[0]);
        let layout = self.layout(&[input]);
        let x = self.floats(input, layout)?;
        let result = self.function(&x, function);
        self.give(output, layout, result)
    }

    fn function(&mut self, x: &str, function: Unary) -> String {
        let op = match function {
            Unary::Abs => "Abs",
            Unary::Neg => "Neg",
            Unary::Sign => "Sign",
            Unary::Reciprocal => "Reciprocal",
            Unary::Sqrt => "Sqrt",
            Unary::Floor => "Floor",
            Unary::Ceil => "Ceil",
            Unary::Round => "Round",
            Unary::Exp => "Exp",
            Unary::Log => "Log",
            Unary::Sin => "Sin",
            Unary::Cos => "Cos",
            Unary::Tanh => "Tanh",
            Unary::Erf => "Erf",
            Unary::Sigmoid => "Sigmoid",
            Unary::Softplus => "Softplus",
            Unary::Softsign => "Softsign",
            Unary::HardSwish => "HardSwish",
            Unary::RELU => "Relu",
            Unary::LeakyRelu { alpha } => {
                return self.step("LeakyRelu", &[x], vec![Attribute::Float("alpha", alpha)]);
            }
            Unary::Elu { alpha } => return self.step("Elu", &[x], vec![Attribute::Float("alpha", alpha)]),
            Unary::HardSigmoid { alpha, beta } => {
                let attributes = vec![Attribute::Float("alpha", alpha), Attribute::Float("beta", beta)];
                return self.step("HardSigmoid", &[x], attributes);
            }
            Unary::Clip { low, high } => {
                let bound = |bound: f32| if bound.is_finite() { self.number(bound) } else { String::new() };
                let bounds = [low, high].map(bound);
                return self.step("Clip", &[x, &bounds[0], &bounds[1]], vec![]);
            }
            Unary::Square => return self.step("Mul", &[x, x], vec![]),
            Unary::Trunc => {
                let size = self.step("Abs", &[x], vec![]);
                let whole = self.step("Floor", &[&size], vec![]);
                let sign = self.step("Sign", &[x], vec![]);
                return self.step("Mul", &[&sign, &whole], vec![]);
            }
            // An operator of its own only since version 20.
            Unary::Gelu => {
                let factors = [std::f32::consts::FRAC_1_SQRT_2, 1.0, 0.5].map(|factor| self.number(factor));
                let scaled = self.step("Mul", &[x, &factors[0]], vec![]);
                let erf = self.step("Erf", &[&scaled], vec![]);
                let share = self.step("Add", &[&erf, &factors[1]], vec![]);
                let double = self.step("Mul", &[x, &share], vec![]);
                return self.step("Mul", &[&double, &factors[2]], vec![]);
            }
        };
        self.step(op, &[x], vec![])
    }

    /// Over the last dimension.
    pub fn softmax(&mut self, node: &Node, beta: f32) -> Result<(), Error> {
        let (input, output) = (self.input(node, 0)?, node.outputs[0]);
        let n_dims = self.tensor(input).shape.len();
        let last = n_dims.checked_sub(1).ok_or_else(|| self.malformed("a single number"))?;
        let layout = self.layout(&[input]);
        let mut x = self.floats(input, layout)?;
        if beta != 1.0 {
            let factor = self.number(beta);
            x = self.step("Mul", &[&x, &factor], vec![]);
        }
        let axis = Attribute::Int("axis", layout.axis(last) as i64);
        let result = self.step("Softmax", &[&x], vec![axis]);
        self.give(output, layout, result)
    }

    /// From floats to bytes or back, or from bytes of one scale to those of another.
    pub fn convert(&mut self, node: &Node) -> Result<(), Error> {
        let input = self.input(node, 0)?;
        let layout = self.layout(&[input]);
        let floats = self.floats(input, layout)?;
        self.give(node.outputs[0], layout, floats)
    }
}
