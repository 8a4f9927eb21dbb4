// Live captions from a streaming rdsdk package with Core ML: samples in, lines of text out.
// iOS 18, macOS 15 or later: the package keeps the stream's memory in Core ML states.
import CoreML
import Foundation

/// One listener. Not for several threads at a time.
final class Captions {
    struct Fault: Error { let message: String }

    let card: Card
    private let model: MLModel
    private var state: MLState
    private var decoder: GreedyDecoder
    private var pending: [Float] = []
    private var samples = 0
    private var frames = 0

    var partial: String { decoder.partial }

    /// `model` is compiled (.mlmodelc, as Xcode puts it into the app); `card` is its card.json.
    init(model url: URL, card cardURL: URL) async throws {
        card = try Card.read(cardURL)
        let asset = try MLModelAsset(url: url)
        let configuration = MLModelConfiguration()
        // A package for whole recordings and streams alike holds two functions.
        if try await asset.functionNames.contains("step") { configuration.functionName = "step" }
        model = try await MLModel.load(asset: asset, configuration: configuration)
        state = model.makeState()
        decoder = GreedyDecoder(card)
        try reset()
    }

    /// One call: chunk + overlap samples in, log_probs (frames x symbols) out; the state is kept.
    func step(_ waveform: [Float]) throws -> [Float] {
        let array = MLShapedArray<Float>(scalars: waveform, shape: [1, waveform.count])
        let input = try MLDictionaryFeatureProvider(
            dictionary: ["waveform": MLFeatureValue(shapedArray: array)])
        let output = try model.prediction(from: input, using: state)
        guard let logProbs = output.featureValue(for: "log_probs")?.shapedArrayValue(of: Float.self),
            logProbs.scalarCount == card.context.chunkFrames * card.vocabulary.symbols.count
        else { throw Fault(message: "the model gave no log_probs of the expected size") }
        return logProbs.scalars
    }

    /// A state of zeros: nothing heard, not even silence.
    func clearState() { state = model.makeState() }

    /// Forgets everything. A stream begins after a chunk of silence, as a microphone does.
    func reset() throws {
        clearState()
        _ = try step([Float](repeating: 0, count: card.chunk + card.overlap))
        decoder = GreedyDecoder(card)
        pending = []
        samples = 0
        frames = 0
    }
}

extension Captions {
    /// Hears 16 kHz samples in [-1, 1], as many as come; the lines that became final.
    func feed(_ block: [Float]) throws -> [String] {
        pending += block
        samples += block.count
        var lines: [String] = []
        while pending.count >= card.chunk + card.overlap {
            lines += try next(card.context.chunkFrames)
        }
        return lines
    }

    /// There is no more sound: the last lines. A symbol may come up to 10 frames after its sound.
    func finish() throws -> [String] {
        var lines: [String] = []
        let all = max(1, (samples - card.frameOverlap + card.hopSamples - 1) / card.hopSamples) + 10
        while samples > 0 && frames < all {
            let missing = max(0, card.chunk + card.overlap - pending.count)
            pending += [Float](repeating: 0, count: missing)
            lines += try next(min(all - frames, card.context.chunkFrames))
        }
        return lines + [decoder.finish()].compactMap { $0 }
    }

    private func next(_ count: Int) throws -> [String] {
        let logProbs = try step(Array(pending.prefix(card.chunk + card.overlap)))
        pending.removeFirst(card.chunk)  // the overlap stays
        frames += count
        let symbols = card.vocabulary.symbols.count
        return (0..<count).compactMap { decoder.feed(logProbs[$0 * symbols..<($0 + 1) * symbols]) }
    }
}
