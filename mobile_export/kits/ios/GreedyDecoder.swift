// The card of an rdsdk model, and its log_probs as text: no audio, no model.
import Foundation

/// What a model's card.json says about streaming.
struct Card: Decodable {
    struct Vocabulary: Decodable {
        let symbols: [String]
        let blank: Int
        let wordBoundary: String?
    }
    struct Context: Decodable { let chunkFrames: Int }

    let sampleRate: Int
    let hopSamples: Int
    let receptiveFieldSamples: Int
    let overlapSamples: Int?
    let vocabulary: Vocabulary
    let context: Context

    /// What two frames share; what two calls share is longer where the model looks ahead.
    var frameOverlap: Int { receptiveFieldSamples - hopSamples }
    var overlap: Int { overlapSamples ?? frameOverlap }
    var chunk: Int { context.chunkFrames * hopSamples }

    static func read(_ url: URL) throws -> Card {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Card.self, from: Data(contentsOf: url))
    }
}

/// Greedy CTC: the likeliest symbol of each frame; repeats and blanks collapse, across chunks too.
struct GreedyDecoder {
    private let symbols: [String]
    private let blank: Int
    private let boundary: Int?  // the symbol between words; nil when every symbol is a word
    private let silenceFrames: Int
    private let longestFrames: Int
    private var previous: Int
    private var frame = 0
    private var firstFrame = 0
    private var lastFrame = 0
    private var words = ""
    private var word = ""

    init(_ card: Card) {
        symbols = card.vocabulary.symbols
        blank = card.vocabulary.blank
        boundary = card.vocabulary.wordBoundary.flatMap(card.vocabulary.symbols.firstIndex(of:))
        silenceFrames = 8 * card.sampleRate / (10 * card.hopSamples)  // 0.8 s end a line
        longestFrames = 20 * card.sampleRate / card.hopSamples
        previous = blank
    }

    /// What has been heard since the last final line.
    var partial: String { words.isEmpty || word.isEmpty ? words + word : words + " " + word }

    /// Reads one frame of log_probs; the line that became final with it, if any.
    mutating func feed(_ logProbs: ArraySlice<Float>) -> String? {
        var best = logProbs.startIndex
        for index in logProbs.indices where logProbs[index] > logProbs[best] { best = index }
        let symbol = best - logProbs.startIndex
        let repeated = symbol == previous
        if boundary == nil ? !repeated : symbol == boundary { endWord() }
        if symbol != blank, symbol != boundary {
            if partial.isEmpty { firstFrame = frame }
            if !repeated { word += symbols[symbol] }
            lastFrame = frame
        }
        previous = symbol
        frame += 1
        let longest = word.isEmpty ? longestFrames : 2 * longestFrames
        let isOver = frame - lastFrame > silenceFrames || frame - firstFrame >= longest
        return !partial.isEmpty && isOver ? finish() : nil
    }

    /// There is no more sound: the last line, if any.
    mutating func finish() -> String? {
        endWord()
        defer { words = "" }
        return words.isEmpty ? nil : words
    }

    private mutating func endWord() {
        words = partial
        word = ""
    }
}
