// safetensors files (https://github.com/huggingface/safetensors): an 8-byte little-endian header length, a
// JSON header {name: {dtype, shape, data_offsets}}, then the raw little-endian data. f32 and f64 only.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "dirigo/core/tensor.hpp"
#include "dirigo/nn/module.hpp"

namespace dirigo::nn {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

struct SafetensorsFile {
  NamedTensors tensors;
  std::map<std::string, std::string> metadata;

  const Tensor* find(const std::string& name) const;
};

// Writes `path` whole or not at all: a temporary file beside it, flushed, then renamed. Throws IoError (no
// disk space, not writable), naming the file; ValueError for an undefined tensor, a name given twice,
// "__metadata__" or text that is not UTF-8; ShapeError for a strided view.
void write_safetensors(const std::string& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata = {});

// No file is trusted: header length, offsets (order, overlap, gaps, range), shapes, sizes and dtypes are
// checked against the file's size before anything is allocated. Throws IoError naming the file, the field and
// what was expected.
SafetensorsFile read_safetensors(const Context& context, const std::string& path);

// Copies tensors into parameters by name. Throws IoError naming `path` and the tensor when one is missing,
// unknown, or of another shape or dtype; then no parameter has been changed.
void load_parameters(const SafetensorsFile& file, const std::string& path,
                     const std::vector<NamedParameter>& parameters);

}  // namespace dirigo::nn
