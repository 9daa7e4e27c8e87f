// Act by a policy of `action-heads export --format aoti` with torch's C++ libraries:
//     act_aoti policy.pt2 [input=file ...] [chunk=file]
//
// Inputs are as in act.cpp. The file is compiled code: load only files that you trust.
//
// Axes: b batch, h horizon, a action.

#include <torch/csrc/api/include/torch/version.h>
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 7
#error "act_aoti.cpp needs torch 2.7 or newer"
#endif
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <map>
#include <memory>
#include <regex>

#include "program.h"

class Policy {
public:
    // Load a file, which fixes the sampler, the number of denoising steps and the batch.
    explicit Policy(const std::string& path, int threads = 1) : loader_(load(path)) {
        at::set_num_threads(threads);
        const auto metadata = loader_->get_metadata();  // JSON with {"inputs": {"cond": [1, 512], ...}}
        const auto found = metadata.find("action_heads");
        if (found == metadata.end()) throw std::runtime_error(path + " is not a file of action-heads");
        for (const std::string name : {"noise", "cond", "mask"}) {  // the order of the compiled function's arguments
            std::smatch match;
            const std::regex entry("\"inputs\": \\{[^}]*\"" + name + "\": \\[([0-9, ]+)\\]");
            if (!std::regex_search(found->second, match, entry)) continue;
            std::vector<int64_t> shape;
            const std::string axes = match[1];
            const std::regex number("[0-9]+");
            for (std::sregex_iterator axis(axes.begin(), axes.end(), number), end; axis != end; ++axis)
                shape.push_back(std::stoll(axis->str()));
            names_.push_back(name);
            inputs[name] = Input(shape, name != "mask");
        }
    }

    // Compute the chunk (b h a) in robot units from `inputs`.
    std::vector<float> act() {
        const c10::InferenceMode guard;
        std::vector<at::Tensor> values;
        for (const auto& name : names_) {
            Input& input = inputs.at(name);
            // Compiled code can clamp a NaN to a finite action, so the chunk alone would not show it.
            if (input.is_float) checked(reinterpret_cast<const float*>(input.bytes.data()), input.size(), name);
            values.push_back(at::from_blob(input.bytes.data(), input.shape, input.is_float ? at::kFloat : at::kBool));
        }
        const at::Tensor chunk = loader_->run(values).at(0).contiguous();
        shape = chunk.sizes().vec();
        return checked(chunk.const_data_ptr<float>(), chunk.numel(), "the chunk: look at cond");
    }

    std::map<std::string, Input> inputs;
    std::vector<int64_t> shape;  // of the last chunk (b h a)

private:
    using Loader = torch::inductor::AOTIModelPackageLoader;

    // Load compiled code. Torch's own message does not name the file.
    static std::unique_ptr<Loader> load(const std::string& path) try {
        return std::make_unique<Loader>(path);
    } catch (const std::exception& error) {
        throw std::runtime_error("cannot load " + path + " as a file of --format aoti: " + error.what());
    }

    std::unique_ptr<Loader> loader_;
    std::vector<std::string> names_;
};

int main(int count, char** words) { return program<Policy>(count, words, "act_aoti policy.pt2"); }
