// @zeldafan0225/ai_horde rates as its users' clients do: the next image, a rating, and so on.
import { AIHorde, APIError } from "@zeldafan0225/ai_horde";

const task = JSON.parse(process.argv[2]);
const { ratings } = new AIHorde({
  ratings_api_route: `${task.api}/v1`,
  default_token: task.key,
  client_agent: "a-bot:1:somebody",
});

async function thrown(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    return { status: error.status, message: error.message };
  }
}

const [dataset] = await ratings.getDatasets();
const teams = await ratings.getTeams();
const first = await ratings.getNewRating();
const done = await ratings.postRating(first.id, { rating: 7, artifacts: "LITTLE_FLAWS" });
const again = await ratings.postRating(first.id, { rating: 7, artifacts: "LITTLE_FLAWS" });
const second = await ratings.getNewRating({ dataset_id: dataset.id, model_name: task.model });
const refused = await thrown(ratings.postRating(second.id, { rating: 11 }));
const masked = await ratings.postRating(second.id, { rating: 3 }, { fields: ["reward"] });
const nothing = await thrown(ratings.getNewRating());
const nobody = await thrown(ratings.postRating(second.id, { rating: 3 }, { token: "0000000000" }));
console.log(
  JSON.stringify({ dataset, teams, first, done, again, second, refused, masked, nothing, nobody }),
);
