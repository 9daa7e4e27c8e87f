// Act by an exported policy with ONNX Runtime alone, in C++17:  act policy.onnx [input=file ...] [chunk=file]
//
// Inputs are raw numbers: noise and cond float32, mask one byte for each token. Left out, noise is random, cond zero and
// mask true. A robot's program keeps Policy, and puts the output of its encoder into `cond`.
//
// Axes: b batch, h horizon, a action, c condition, n tokens.

#include <onnxruntime_cxx_api.h>

#include <map>

#include "program.h"

class Policy {
public:
    // Load a file, which fixes the sampler, the number of denoising steps and the batch.
    explicit Policy(const std::string& path, int threads = 1) : session_(nullptr) {
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(threads);
        session_ = Ort::Session(env_, path.c_str(), options);
        Ort::AllocatorWithDefaultOptions allocator;
        for (size_t i = 0; i < session_.GetInputCount(); ++i) {
            names_.push_back(session_.GetInputNameAllocated(i, allocator).get());
            const Ort::TypeInfo info = session_.GetInputTypeInfo(i);
            const auto tensor = info.GetTensorTypeAndShapeInfo();
            const bool is_float = tensor.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
            if (!is_float && tensor.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL)
                throw std::runtime_error(names_.back() + " is neither float32 nor bool: not a file of action-heads");
            inputs[names_.back()] = Input(tensor.GetShape(), is_float);
        }
    }

    // Compute the chunk (b h a) in robot units from `inputs`.
    std::vector<float> act() {
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        std::vector<Ort::Value> values;
        std::vector<const char*> names;
        for (const auto& name : names_) {
            Input& input = inputs.at(name);
            const auto type = input.is_float ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
            values.push_back(Ort::Value::CreateTensor(memory, input.bytes.data(), input.bytes.size(),
                                                      input.shape.data(), input.shape.size(), type));
            names.push_back(name.c_str());
        }
        const char* output = "chunk";
        auto found = session_.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), &output, 1);
        const auto info = found.at(0).GetTensorTypeAndShapeInfo();
        shape = info.GetShape();
        return checked(found[0].GetTensorData<float>(), info.GetElementCount(), "the chunk: look at cond");
    }

    std::map<std::string, Input> inputs;
    std::vector<int64_t> shape;  // of the last chunk (b h a)

private:
    Ort::Env env_{ORT_LOGGING_LEVEL_WARNING, "action-heads"};
    Ort::Session session_;
    std::vector<std::string> names_;
};

int main(int count, char** words) { return program<Policy>(count, words, "act policy.onnx"); }
