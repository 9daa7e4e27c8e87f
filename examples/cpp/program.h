// What act.cpp and act_aoti.cpp share: inputs from files, one line for an error, and the chunk as output.
//
// Axes: b batch, h horizon, a action, c condition, n tokens.

#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

struct Input {
    std::vector<int64_t> shape;
    bool is_float;  // float32, or else bool
    std::vector<char> bytes;

    // Make an input of zeros, or a mask that is true everywhere.
    Input(std::vector<int64_t> axes = {}, bool floating = true) : shape(axes), is_float(floating) {
        bytes.assign(size() * (is_float ? sizeof(float) : 1), is_float ? 0 : 1);
    }
    size_t size() const {
        return std::accumulate(shape.begin(), shape.end(), size_t{1}, [](size_t n, int64_t axis) { return n * axis; });
    }
};

// Fill noise with standard normal numbers. Every chunk needs new ones.
inline void draw(Input& noise, std::mt19937& generator) {
    std::normal_distribution<float> normal;
    auto* values = reinterpret_cast<float*>(noise.bytes.data());
    for (size_t i = 0; i < noise.size(); ++i) values[i] = normal(generator);
}

inline void read(Input& input, const std::string& name, const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (bytes.size() != input.bytes.size())
        throw std::runtime_error(path + " has " + std::to_string(bytes.size()) + " bytes, but " + name + " takes " +
                                 std::to_string(input.bytes.size()));
    input.bytes = bytes;
}

// Copy values if all of them are finite, since an exported file does not check itself.
inline std::vector<float> checked(const float* values, size_t count, const std::string& where) {
    for (size_t i = 0; i < count; ++i)
        if (!std::isfinite(values[i])) throw std::runtime_error("NaN or infinity in " + where);
    return {values, values + count};
}

// Load a policy, read its inputs, act, and print the first action and the mean time of a chunk.
template <typename Policy> int program(int count, char** words, const std::string& usage) try {
    if (count < 2) throw std::runtime_error("usage: " + usage + " [noise=file] [cond=file] [mask=file] [chunk=file]");
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
    return 0;
} catch (const std::exception& error) {
    const std::string text = error.what();  // Further lines of torch's errors are a stack trace.
    std::cerr << "error: " << text.substr(0, text.find('\n')) << '\n';
    return 1;
}
