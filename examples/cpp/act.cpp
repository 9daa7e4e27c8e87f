// Act by an exported policy with ONNX Runtime alone, in C++17:  act policy.onnx [input=file ...] [chunk=file]
//
// Inputs are raw numbers: noise and cond float32, mask one byte for each token. Left out, noise is random, cond zero and
// mask true. A robot's program keeps Policy, and puts the output of its encoder into `cond`.
//
// Axes: b batch, h horizon, a action, c condition, n tokens.

#include <onnxruntime_cxx_api.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

struct Input {
    std::vector<int64_t> shape;
    ONNXTensorElementDataType type;
    std::vector<char> bytes;

    template <typename T> T* data() { return reinterpret_cast<T*>(bytes.data()); }
    size_t size() const {
        return std::accumulate(shape.begin(), shape.end(), size_t{1}, [](size_t n, int64_t axis) { return n * axis; });
    }
};

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
            Input input{tensor.GetShape(), tensor.GetElementType(), {}};
            const bool is_float = input.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
            if (!is_float && input.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL)
                throw std::runtime_error(names_.back() + " is neither float32 nor bool: not a file of action-heads");
            input.bytes.assign(input.size() * (is_float ? sizeof(float) : 1), is_float ? 0 : 1);
            inputs[names_.back()] = input;
        }
    }

    // Compute the chunk (b h a) in robot units from `inputs`.
    std::vector<float> act() {
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        std::vector<Ort::Value> values;
        std::vector<const char*> names;
        for (const auto& name : names_) {
            Input& input = inputs.at(name);
            values.push_back(Ort::Value::CreateTensor(memory, input.bytes.data(), input.bytes.size(),
                                                      input.shape.data(), input.shape.size(), input.type));
            names.push_back(name.c_str());
        }
        const char* output = "chunk";
        auto found = session_.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), &output, 1);
        const auto info = found.at(0).GetTensorTypeAndShapeInfo();
        const float* chunk = found[0].GetTensorData<float>();
        shape = info.GetShape();
        std::vector<float> copy(chunk, chunk + info.GetElementCount());
        for (float value : copy)  // The file does not check itself.
            if (!std::isfinite(value)) throw std::runtime_error("NaN or infinity in the chunk: look at cond");
        return copy;
    }

    std::map<std::string, Input> inputs;
    std::vector<int64_t> shape;  // of the last chunk (b h a)

private:
    Ort::Env env_{ORT_LOGGING_LEVEL_WARNING, "action-heads"};
    Ort::Session session_;
    std::vector<std::string> names_;
};

// Fill noise with standard normal numbers. Every chunk needs new ones.
void draw(Input& noise, std::mt19937& generator) {
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < noise.size(); ++i) noise.data<float>()[i] = normal(generator);
}

void read(Input& input, const std::string& name, const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (bytes.size() != input.bytes.size())
        throw std::runtime_error(path + " has " + std::to_string(bytes.size()) + " bytes, but " + name + " takes " +
                                 std::to_string(input.bytes.size()));
    input.bytes = bytes;
}

int main(int count, char** words) try {
    if (count < 2) throw std::runtime_error("usage: act policy.onnx [noise=file] [cond=file] [mask=file] [chunk=file]");
    Policy policy(words[1]);
    std::mt19937 generator(0);
    draw(policy.inputs.at("noise"), generator);
    std::string out;
    for (int i = 2; i < count; ++i) {
        const std::string word = words[i], name = word.substr(0, word.find('='));
        if (name.size() + 1 >= word.size()) throw std::runtime_error("expected name=file, got " + word);
        const std::string path = word.substr(name.size() + 1);
        if (name == "chunk") out = path;
        else if (policy.inputs.count(name)) read(policy.inputs[name], name, path);
        else throw std::runtime_error("unknown input " + name + ": this file has no such input");
    }
    const std::vector<float> chunk = policy.act();
    if (!out.empty()) {
        std::ofstream file(out, std::ios::binary);
        if (!file.write(reinterpret_cast<const char*>(chunk.data()), 4 * chunk.size()).flush())
            throw std::runtime_error("cannot write the chunk to " + out);
    }
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < 20; ++i) policy.act();
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - began;
    std::cout << "chunk (";
    for (size_t i = 0; i < policy.shape.size(); ++i) std::cout << (i ? ", " : "") << policy.shape[i];
    std::cout << "), first action";
    for (int64_t i = 0; i < policy.shape.back(); ++i) std::cout << ' ' << chunk[i];
    std::cout << "\nmean of 20: " << spent.count() / 20 << " ms\n";
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
}
