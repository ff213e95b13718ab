//! Writes the seeds from which the fuzzer starts: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.
//!
//! Small valid files that between them reach every part of the readers; the fuzzer damages and recombines them.

use std::error::Error;
use std::fs;
use std::path::Path;

use edgeward_kernels::DType;
use edgeward_model::gguf::{ArrayBuf, GgufWriter, Value, ValueType};

/// Name, dimensions with the fastest-varying first, type.
type Described = (&'static str, Vec<usize>, DType);

/// A request for each endpoint of `fuzz_targets/request.rs`, by its place there, with the fields that it knows.
const REQUESTS: [(&str, u8, &str); 17] = [
    (
        "chat",
        0,
        r#"{"model":"llama","messages":[{"role":"system","content":"a"},{"role":"user","content":[{"type":"text","text":"b"}]},{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"c"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto","max_tokens":3,"n":2,"seed":1,"temperature":0.5,"top_p":0.9,"min_p":0.1,"top_k":3,"logprobs":true,"top_logprobs":2,"stop":["x"],"logit_bias":{"5":1},"stream":true,"stream_options":{"include_usage":true}}"#,
    ),
    (
        "schema",
        0,
        r#"{"messages":[{"role":"user","content":"a"}],"max_tokens":9,"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{"type":"object","properties":{"a":{"enum":[1,"b"]},"c":{"type":"array","items":{"type":"number"},"maxItems":2}},"required":["a"],"additionalProperties":false}}}}"#,
    ),
    (
        "completion",
        1,
        r#"{"prompt":["a",[5,6]],"max_tokens":3,"echo":true,"logprobs":1,"frequency_penalty":1,"presence_penalty":1,"repetition_penalty":1.1,"ignore_eos":true}"#,
    ),
    (
        "response",
        2,
        r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a"}]}],"instructions":"b","max_output_tokens":3,"text":{"format":{"type":"json_object"}}}"#,
    ),
    ("embedding", 3, r#"{"model":"bert","input":["a","b c"],"encoding_format":"base64","dimensions":36}"#),
    ("rerank", 4, r#"{"query":"a","documents":["b","c"],"top_n":1,"return_documents":true}"#),
    (
        "message",
        5,
        r#"{"max_tokens":3,"system":"a","messages":[{"role":"user","content":[{"type":"text","text":"b"},{"type":"tool_result","tool_use_id":"1","content":"c"}]}],"stop_sequences":["x"],"tools":[{"name":"f","input_schema":{"type":"object"}}],"tool_choice":{"type":"any"}}"#,
    ),
    ("count", 6, r#"{"messages":[{"role":"user","content":"b"}]}"#),
    (
        "ollama-chat",
        7,
        r#"{"model":"llama","messages":[{"role":"user","content":"a"}],"format":"json","stream":false,"options":{"num_predict":3,"repeat_penalty":1.1}}"#,
    ),
    (
        "ollama-generate",
        8,
        r#"{"model":"llama:latest","prompt":"a","system":"b","raw":true,"options":{"num_predict":2}}"#,
    ),
    ("ollama-embed", 9, r#"{"model":"bert","input":"a","truncate":true}"#),
    ("tokenize", 11, r#"{"content":"a <s>","add_special":true,"parse_special":true,"with_pieces":true}"#),
    ("detokenize", 12, r#"{"tokens":[1,5,6]}"#),
    (
        "llama-completion",
        13,
        r#"{"prompt":[1,"a",5],"n_predict":3,"n_probs":2,"logit_bias":[["b",-1],[7,false]],"stop":["x"],"seed":-1,"stream":true,"timings_per_token":true,"return_tokens":true,"repeat_penalty":1.1}"#,
    ),
    (
        "llama-grammar",
        13,
        r#"{"prompt":{"prompt_string":"a"},"n_predict":5,"grammar":"root ::= (\"a\" | x)+ # b\nx ::= [^b-d\\x41]{1,3} \"\\n\"? .","response_fields":["content","timings/prompt_n"]}"#,
    ),
    ("texts", 15, r#"{"query":"a","texts":["b","c"],"return_text":true}"#),
    (
        "template",
        16,
        r#"{"messages":[{"role":"user","content":"a"}],"add_generation_prompt":false,"tools":[{"type":"function","function":{"name":"f"}}]}"#,
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    fs::create_dir_all(seeds.join("gguf"))?;
    fs::create_dir_all(seeds.join("safetensors"))?;
    fs::create_dir_all(seeds.join("request"))?;
    for (name, endpoint, json) in REQUESTS {
        fs::write(seeds.join("request").join(name), [&[endpoint], json.as_bytes()].concat())?;
    }
    fs::write(seeds.join("request/raw"), b"\xffGET /v1/models/llama HTTP/1.1\r\nHost: localhost\r\n\r\n")?;

    let tokens = ArrayBuf::strings(["<s>", "Ġa", "é"]);
    let scores = ArrayBuf::f32s([0.0, -1.0, -2.0]);
    let nested = ArrayBuf::new(ValueType::Array, [tokens.value(), scores.value()]);
    let deep = ArrayBuf::new(ValueType::Array, [nested.value(), nested.value()]);
    let bools = ArrayBuf::new(ValueType::Bool, [Value::Bool(true), Value::Bool(false)]);
    write_gguf(&seeds.join("gguf/empty"), &[], &[])?;
    write_gguf(
        &seeds.join("gguf/values"),
        &[
            ("u8", Value::U8(1)),
            ("i8", Value::I8(-1)),
            ("u16", Value::U16(1)),
            ("i16", Value::I16(-1)),
            ("u32", Value::U32(1)),
            ("i32", Value::I32(-1)),
            ("u64", Value::U64(1)),
            ("i64", Value::I64(-1)),
            ("f32", Value::F32(0.5)),
            ("f64", Value::F64(0.5)),
            ("bool", Value::Bool(true)),
            ("string", Value::String("text")),
            ("strings", tokens.value()),
            ("floats", scores.value()),
            ("bools", bools.value()),
            ("deep", deep.value()),
        ],
        &[],
    )?;
    let types = DType::ALL.map(|dtype| (dtype.name(), vec![dtype.block_len(), 1], dtype));
    write_gguf(&seeds.join("gguf/types"), &[], &types)?;
    // A whole model, that Model::from_gguf accepts: one layer, one head.
    let f32s = |name, dims: &[usize]| (name, dims.to_vec(), DType::F32);
    write_gguf(
        &seeds.join("gguf/llama"),
        &[
            ("general.architecture", Value::String("llama")),
            ("llama.block_count", Value::U32(1)),
            ("llama.context_length", Value::U32(8)),
            ("llama.embedding_length", Value::U32(2)),
            ("llama.feed_forward_length", Value::U32(2)),
            ("llama.attention.head_count", Value::U32(1)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.scaling.type", Value::String("none")),
            ("tokenizer.ggml.tokens", tokens.value()),
        ],
        &[
            f32s("rope_freqs.weight", &[1]),
            f32s("token_embd.weight", &[2, 3]),
            f32s("output_norm.weight", &[2]),
            f32s("blk.0.attn_norm.weight", &[2]),
            f32s("blk.0.attn_q.weight", &[2, 2]),
            f32s("blk.0.attn_k.weight", &[2, 2]),
            f32s("blk.0.attn_v.weight", &[2, 2]),
            f32s("blk.0.attn_output.weight", &[2, 2]),
            f32s("blk.0.ffn_norm.weight", &[2]),
            f32s("blk.0.ffn_gate.weight", &[2, 2]),
            f32s("blk.0.ffn_up.weight", &[2, 2]),
            f32s("blk.0.ffn_down.weight", &[2, 2]),
        ],
    )?;

    for (name, header, data_bytes) in [
        ("empty", "{}", 0),
        ("one", r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#, 16),
        (
            "three",
            concat!(
                r#"{"__metadata__":{"format":"pt"},"#,
                r#""a":{"dtype":"F16","shape":[],"data_offsets":[0,2]},"#,
                r#""b.\u00e9":{"dtype":"BF16","shape":[3],"data_offsets":[2,8]},"#,
                r#""c":{"dtype":"F32","shape":[1,2,1],"data_offsets":[8,16]}}  "#
            ),
            16,
        ),
    ] {
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length[..], header.as_bytes(), &vec![0; data_bytes]].concat();
        fs::write(seeds.join("safetensors").join(name), bytes)?;
    }
    Ok(())
}

/// A file of those keys, and tensors whose bytes all read as 1.0 in F32.
fn write_gguf(path: &Path, keys: &[(&str, Value<'_>)], tensors: &[Described]) -> Result<(), Box<dyn Error>> {
    let mut writer = GgufWriter::new();
    for (key, value) in keys {
        writer.key(key, *value)?;
    }
    for (name, dims, dtype) in tensors {
        writer.tensor(name, dims, *dtype)?;
    }
    let mut sizes = tensors.iter().map(|(_, dims, dtype)| {
        let row_bytes = dtype.row_bytes(dims[0]).unwrap_or(0);
        row_bytes * dims[1..].iter().product::<usize>()
    });
    let one = 1f32.to_le_bytes();
    writer.write_file(path, |_, out| {
        let n_bytes = sizes.next().unwrap_or(0);
        out.write_all(&one.iter().copied().cycle().take(n_bytes).collect::<Vec<u8>>())
    })?;
    Ok(())
}
